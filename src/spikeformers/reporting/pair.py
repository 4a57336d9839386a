"""A spiking model and its dense twin, measured alike: summary.json, pictures, report.html."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from spikeformers.energy import EnergyReport, energy_of
from spikeformers.engine import Engine, EngineSystem
from spikeformers.evaluation import perplexity
from spikeformers.evaluation.systems import System, Timing, TorchSystem, time_systems
from spikeformers.progress import Move, Tell, watched
from spikeformers.reporting import pictures
from spikeformers.reporting.gather import (
    by_point,
    loss_curve,
    outside_blocks,
    rasters,
    spelled,
    windows_of,
    winners,
)
from spikeformers.reporting.machine import machine, versions
from spikeformers.reporting.pair_page import write_pair_page
from spikeformers.storage import write_text
from spikeformers.training.journal import SEEN, read_metrics

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from spikeformers.data import Corpus, TokenStore

ENERGY_TOKENS = 4096  # of validation text, whose events are counted
TITLES = {"spiking": "spiking", "control": "dense twin"}
SPEED_TOKENS = 32  # that are appended one by one, after SPEED_PROMPT of the same text
SPEED_PROMPT = 8


@dataclass(frozen=True)
class Trained:
    """One side of the pair: its run folder, the model in it, and a text it wrote."""

    folder: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    sample: str


def report_pair(
    out: Path,
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
) -> dict[str, Any]:
    """Measure both on the validation split; write pictures, report.html, then summary.json.

    ``engine`` runs the spiking model; where there is none, ``no_engine`` says why. ``progress``
    gets each stage of it. Returns the summary. Raises ``DataError`` where the validation text is
    too short.
    """
    tell = progress or (lambda *_: None)
    sides = {"spiking": spiking, "control": control}
    windows = windows_of(store.split("validation"), context, ENERGY_TOKENS)
    energies = {
        name: energy_of(
            one.model, watched(windows, partial(tell, f"counting events, {TITLES[name]}"))
        )
        for name, one in sides.items()
    }
    speeds = _speeds(sides, engine, windows[0][0].tolist(), partial(tell, "timing"))
    summary: dict[str, Any] = {"format_version": 1}
    for name, one in sides.items():
        summary[name] = {
            **_quality(one, store, context, partial(tell, f"scoring, {TITLES[name]}")),
            **_training(one.folder),
            **_energy(energies[name]),
            "parameters": one.model.num_parameters(),
            "generation_tokens_per_second": speeds[name].tokens_per_second,
            "sample": one.sample,
            "model_type": one.model.config.model_type,
        }
    neurons = {name: spikes.density for name, spikes in energies["spiking"].neurons.items()}
    summary["spiking"] |= {"density": energies["spiking"].density, "density_by_layer": neurons}
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
    tell("drawing", 0, None)
    drawn = _draw(out / "pictures", sides, energies, neurons, sentence)
    write_pair_page(out / "report.html", summary, drawn)
    write_text(out / "summary.json", json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    return summary


def _speeds(
    sides: Mapping[str, Trained], engine: Engine | None, ids: list[int], progress: Move
) -> dict[str, Timing]:
    """Tokens appended one by one to the same text: both in PyTorch, and the engine, in turns."""
    systems: dict[str, System] = {name: TorchSystem(one.model) for name, one in sides.items()}
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


def _quality(one: Trained, store: TokenStore, context: int, progress: Move) -> dict[str, Any]:
    split = store.split("validation")
    measured = perplexity(one.model, one.tokenizer, split, context=context, progress=progress)
    found = measured.as_dict()
    kept = ("bits_per_byte", "perplexity", "word_perplexity", "nats_per_token", "context", "stride")
    return {key: found[key] for key in kept} | {"evaluated_tokens": found["tokens"]}


def _training(folder: Path) -> dict[str, Any]:
    lines = [
        line
        for line in read_metrics(folder / "metrics.jsonl", needed=("seconds", SEEN))
        if line["kind"] == "train"
    ]
    last = lines[-1]
    seconds = float(last["seconds"])
    return {
        "tokens_seen": last["tokens_seen"],
        "train_seconds": seconds,
        "tokens_per_second": last["tokens_seen"] / seconds,
    }


def _energy(found: EnergyReport) -> dict[str, Any]:
    return {
        "energy_pj_per_token": found.picojoules_per_token,
        "energy_with_elementwise_pj_per_token": found.with_elementwise_per_token,
        "macs_per_token": found.macs_per_token,
        "synaptic_operations_per_token": found.sop_per_token,
        "energy_by_component_pj_per_token": {
            name: share.with_elementwise for name, share in found.by_component.items()
        },
    }


def _draw(
    folder: Path,
    sides: Mapping[str, Trained],
    energies: Mapping[str, EnergyReport],
    neurons: Mapping[str, float],
    sentence: str,
) -> dict[str, Path]:
    """Draw all pictures; PNG files by name."""
    spiking = sides["spiking"]
    files = ("loss", "density", "raster", "winners", "energy")
    drawn = {name: folder / f"{name}.png" for name in files}
    curves = [loss_curve(TITLES[name], one.folder) for name, one in sides.items()]
    pictures.loss_curves(drawn["loss"], curves)
    pictures.density_by_layer(drawn["density"], by_point(neurons), outside_blocks(neurons))
    longest = int(spiking.model.config.max_position_embeddings)
    ids = torch.tensor([spiking.tokenizer(sentence)["input_ids"][:longest]])
    tokens = spelled(spiking.tokenizer, ids[0].tolist())
    block = math.ceil(spiking.model.config.num_hidden_layers / 2) - 1
    spikes, levels = rasters(spiking.model, ids, block)
    pictures.spike_raster(drawn["raster"], spikes, tokens, levels)
    pictures.winner_map(drawn["winners"], winners(spiking.model, ids), tokens)
    parts = {
        TITLES[name]: {
            part: share.with_elementwise
            for part, share in found.by_component.items()
            if share.with_elementwise
        }
        for name, found in energies.items()
    }
    pictures.energy_by_component(drawn["energy"], parts)
    return drawn
