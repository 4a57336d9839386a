"""A spiking model and its dense twin, trained and measured in the same way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray

from spikeformers.energy import EnergyReport
from spikeformers.engine import Engine, EngineSystem
from spikeformers.evaluation.systems import System, Timing, TorchSystem, time_systems
from spikeformers.models import share_read
from spikeformers.progress import Move, Tell
from spikeformers.studies.gather import (
    Curve,
    Raster,
    attention_weights,
    by_point,
    loss_curve,
    outside_blocks,
    raster_of_sentence,
    spelled,
    windows_of,
)
from spikeformers.studies.machine import machine, versions
from spikeformers.studies.quality import ModelFigures, measure_model, selected
from spikeformers.training.journal import SEEN, read_metrics

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from spikeformers.data import Corpus, TokenStore

TITLES = {"spiking": "spiking", "control": "dense twin"}
SPEED_TOKENS = 32  # tokens to generate one by one, after SPEED_PROMPT of the same text
SPEED_PROMPT = 8
QUALITY = (
    *("bits_per_byte", "perplexity", "word_perplexity", "nats_per_token", "context", "stride"),
)


@dataclass(frozen=True)
class Trained:
    """One model of the pair: its run folder, the model in it, and a sample of its text."""

    folder: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    sample: str


@dataclass
class PairStudy:
    """Figures of both, and the data of their pictures."""

    summary: dict[str, Any]
    """Plain values for JSON: spiking, control, engine, prompt, corpus, tokens, machine, versions,
    seed, settings, kinds."""
    curves: list[Curve]
    """Losses of each run."""
    densities: dict[str, list[float | None]]
    """Point -> firing density by block, of the spiking model."""
    outside: dict[str, float]
    """Densities outside the blocks."""
    raster: Raster
    """Of the sentence."""
    weights: dict[str, NDArray[Any]]
    """Block -> attention weights ``[heads, T, T]`` of the sentence."""
    sentence: list[str]
    """Its tokens."""
    energies: dict[str, dict[str, float]] = field(default_factory=dict)
    """Model -> component -> picojoules per token, elementwise work included; estimated."""


def measure_pair(
    spiking: Trained,
    control: Trained,
    store: TokenStore,
    *,
    corpus: Corpus,
    context: int,
    seed: int,
    prompt: str,
    sentence: str,
    settings: Mapping[str, Any],
    engine: Engine | None = None,
    no_engine: str = "",
    progress: Tell | None = None,
) -> PairStudy:
    """Quality, energy and speed of both on the validation split, and spikes of one ``sentence``.

    ``engine`` runs the spiking model; without one, ``no_engine`` is the reason. ``prompt`` is the
    beginning of the samples, and ``settings`` are those of the training, for the summary.
    ``progress`` receives each stage. Raises DataError if the validation text is too short.
    """
    tell = progress or (lambda *_: None)
    sides = {"spiking": spiking, "control": control}
    split = store.split("validation")
    figures = {
        name: measure_model(
            each.model, each.tokenizer, split, context=context,
            scoring=partial(tell, f"scoring, {TITLES[name]}"),
            counting=partial(tell, f"counting events, {TITLES[name]}"),
        )
        for name, each in sides.items()
    }  # fmt: skip
    text = windows_of(split, context, context)[0][0].tolist()
    speeds = _speeds(sides, engine, text, partial(tell, "timing"))
    density = {name: s.density for name, s in figures["spiking"].energy.neurons.items()}
    summary: dict[str, Any] = {"format_version": 1}
    for name, each in sides.items():
        summary[name] = _side(each, figures[name], speeds[name])
    summary["spiking"] |= {
        "density": figures["spiking"].energy.density,
        "density_by_layer": density,
        "weights_read": share_read(spiking.model, density),
    }
    summary |= {
        "engine": _engine(engine, speeds) if engine is not None else {"absent": no_engine},
        "prompt": prompt,
        "corpus": {"name": corpus.name, "sha256": corpus.digest, "split_by": corpus.split_by},
        "tokens": {name: store.split(name).num_tokens for name in store.splits},
        "machine": machine(),
        "versions": versions(),
        "seed": seed,
        "settings": dict(settings),
        "kinds": {"estimated": ["energy_*"], "measured": ["everything else"]},
    }
    model, tokenizer = spiking.model, spiking.tokenizer
    longest = int(model.config.max_position_embeddings)
    ids = torch.tensor([tokenizer(sentence)["input_ids"][:longest]])
    return PairStudy(
        summary,
        [loss_curve(TITLES[name], each.folder) for name, each in sides.items()],
        by_point(density),
        outside_blocks(density),
        raster_of_sentence(model, tokenizer, ids),
        attention_weights(model, ids),
        spelled(tokenizer, ids[0].tolist()),
        {TITLES[name]: _components(each.energy) for name, each in figures.items()},
    )


def _side(trained: Trained, figures: ModelFigures, speed: Timing) -> dict[str, Any]:
    """The plain figures of one model of the pair."""
    return {
        **selected(figures.quality, QUALITY),
        "evaluated_tokens": figures.quality.tokens,
        **_training(trained.folder),
        **_energy(figures.energy),
        "parameters": figures.parameters,
        "generation_tokens_per_second": speed.tokens_per_second,
        "sample": trained.sample,
        "model_type": trained.model.config.model_type,
    }


def _speeds(
    sides: Mapping[str, Trained], engine: Engine | None, ids: list[int], progress: Move
) -> dict[str, Timing]:
    """Timings of single tokens after the same text: both in PyTorch, and the engine, in turns."""
    systems: dict[str, System] = {name: TorchSystem(each.model) for name, each in sides.items()}
    if engine is not None:
        systems["engine"] = EngineSystem(engine)
    ids = ids[: SPEED_PROMPT + SPEED_TOKENS]
    prompt = max(1, min(SPEED_PROMPT, len(ids) - 1))
    _, decoding = time_systems(systems, ids, prompt_tokens=prompt, repeats=3, progress=progress)
    return decoding


def _engine(engine: Engine, speeds: Mapping[str, Timing]) -> dict[str, Any]:
    return {
        "generation_tokens_per_second": speeds["engine"].tokens_per_second,
        "weights": engine.packed.weights,
        "threads": engine.threads,
        "kernels": str(engine.choice),
    }


def _training(folder: Path) -> dict[str, Any]:
    """The last training line of a run."""
    lines = read_metrics(folder / "metrics.jsonl", needed=("seconds", SEEN))
    last = [line for line in lines if line["kind"] == "train"][-1]
    seconds = float(last["seconds"])
    return {
        "tokens_seen": last["tokens_seen"],
        "train_seconds": seconds,
        "tokens_per_second": last["tokens_seen"] / seconds,
    }


def _energy(report: EnergyReport) -> dict[str, Any]:
    return {
        "energy_pj_per_token": report.picojoules_per_token,
        "energy_with_elementwise_pj_per_token": report.with_elementwise_per_token,
        "macs_per_token": report.macs_per_token,
        "synaptic_operations_per_token": report.sop_per_token,
        "energy_by_component_pj_per_token": {
            name: share.with_elementwise for name, share in report.by_component.items()
        },
    }


def _components(report: EnergyReport) -> dict[str, float]:
    """Components with an energy above 0, in picojoules per token."""
    return {
        name: share.with_elementwise
        for name, share in report.by_component.items()
        if share.with_elementwise
    }
