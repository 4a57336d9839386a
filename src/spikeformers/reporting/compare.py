"""Runs side by side, from what their folders hold, and from measurements where a text is given.

RUN/run.json, metrics.jsonl              parameters, tokens seen, validation, density
RUN/evaluations/zeroshot-TASK.json       ``spikeformers evaluate zeroshot``
RUN/**/result.json                       ``spikeformers finetune``
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from spikeformers.data import TokenSplit
from spikeformers.errors import UsageError
from spikeformers.evaluation import context_of, decoding_speeds, perplexity
from spikeformers.evaluation.bootstrap import Difference, paired_means, paired_metric
from spikeformers.foreign import read_json
from spikeformers.progress import Tell, watched
from spikeformers.reporting.results import read_sentences, read_zeroshot
from spikeformers.training.glue import METRICS
from spikeformers.training.journal import SEEN, read_metrics

SPEED_TOKENS = 32


@dataclass
class Side:
    """What is known of one run; figures that are not known are absent."""

    name: str
    folder: Path
    figures: dict[str, float] = field(default_factory=dict)
    zeroshot: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Task -> its part of a zero-shot result."""
    sentences: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Task -> results of fine-tuning, one a seed."""


def read_side(folder: Path, name: str) -> Side:
    """A run's folder; UsageError for one that holds nothing to compare."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder; compare takes run folders.")
    side = Side(name, folder)
    _read_training(side)
    for file in sorted((folder / "evaluations").glob("zeroshot-*.json")):
        for task, found in read_zeroshot(file).items():
            if found["limit"] is None:
                side.zeroshot[task] = found
    for pattern in ("result.json", "*/result.json", "*/*/result.json"):
        for file in sorted(folder.glob(pattern)):
            if sentences := read_sentences(file, predicted=True):
                side.sentences.setdefault(sentences["task"], []).append(sentences)
    if not (side.figures or side.zeroshot or side.sentences):
        raise UsageError(
            f"{folder} holds no run, no evaluations of `spikeformers evaluate zeroshot` and no "
            "results of `spikeformers finetune`."
        )
    return side


def _read_training(side: Side) -> None:
    file = side.folder / "run.json"
    if file.is_file():
        record = read_json(file, needed={"parameters": int, "data": dict})
        side.figures["parameters"] = record["parameters"]
        if "examples" in record["data"]:  # a run of finetune: its losses are of another kind
            return
    lines = read_metrics(side.folder / "metrics.jsonl", needed=("seconds", SEEN))
    trained = [line for line in lines if line["kind"] == "train"]
    held_out = [line for line in lines if line["kind"] == "validation"]
    if trained:
        unit = next(key for key in trained[-1] if key.endswith("s_seen")).removesuffix("s_seen")
        seen = trained[-1][f"{unit}s_seen"]
        side.figures[f"{unit}s seen"] = seen
        if seconds := trained[-1]["seconds"]:
            side.figures[f"training {unit}s/s"] = seen / seconds
        if "density" in trained[-1]:
            side.figures["density, last batch"] = trained[-1]["density"]
    if held_out:
        unit = next(key for key in held_out[-1] if key.endswith("s_seen")).removesuffix("s_seen")
        for key, title in (
            ("loss", f"validation nats/{unit}"),
            ("bits_per_byte", "bits/byte"),
            ("accuracy", "validation accuracy"),
        ):
            if key in held_out[-1]:
                side.figures[title] = held_out[-1][key]


def measure_sides(
    sides: Sequence[Side],
    models: Mapping[str, tuple[Any, Any]],
    splits: Mapping[str, TokenSplit],
    tokens: int,
    progress: Tell | None = None,
) -> None:
    """Quality, density, energy and decoding speed on the same text, into ``figures``.

    Causal models alone have bits a byte and a decoding speed.
    """
    from spikeformers.energy import energy_of
    from spikeformers.reporting.gather import windows_of

    tell = progress or (lambda *_: None)
    writers = {}
    for side in sides:
        model, tokenizer = models[side.name]
        scoring, counting = (f"{what}, {side.name}" for what in ("scoring", "counting events"))
        split = splits[side.name]
        context = context_of(model)
        quality = perplexity(
            model, tokenizer, split, context=context, max_tokens=tokens,
            progress=partial(tell, scoring),
        )  # fmt: skip
        windows = windows_of(split, context, tokens)
        found = energy_of(model, watched(windows, partial(tell, counting)))
        side.figures["parameters"] = model.num_parameters()
        if quality.kind == "causal":
            side.figures["measured bits/byte"] = float(quality.bits_per_byte or 0)
            writers[side.name] = (model, context)
        else:
            side.figures["masked nats/token"] = float(quality.masked_loss or 0)
        if found.density is not None:
            side.figures["density"] = found.density
        side.figures["nJ/token"] = found.picojoules_per_token / 1e3
        side.figures["nJ/token with elementwise"] = found.with_elementwise_per_token / 1e3
    if writers:
        shortest = min(context for _, context in writers.values())
        new = min(SPEED_TOKENS, shortest // 2)
        prompt = list(range(1, 1 + min(8, shortest - new)))
        speeds = decoding_speeds(
            {name: model for name, (model, _) in writers.items()}, prompt,
            new_tokens=new, repeats=3, progress=partial(tell, "timing"),
        )  # fmt: skip
        for side in sides:
            if side.name in speeds:
                side.figures["writing tokens/s"] = speeds[side.name].tokens_per_second


@dataclass(frozen=True)
class Compared:
    """One score of one model beside the first model's; ``why`` there is no difference."""

    what: str
    model: str
    found: Difference | None
    why: str = ""


def differences(sides: Sequence[Side], seed: int = 0) -> list[Compared]:
    """Every score of every run less the first run's, by the paired bootstrap."""
    first, *others = sides
    rows: list[Compared] = []
    for other in others:
        for task in first.zeroshot:
            if task in other.zeroshot:
                rows += _zeroshot(task, first.zeroshot[task], other, seed)
        for task in first.sentences:
            if task in other.sentences:
                rows += _sentences(task, first.sentences[task], other, seed)
    return rows


def _zeroshot(task: str, one: dict[str, Any], other: Side, seed: int) -> list[Compared]:
    two = other.zeroshot[task]
    if one["docs_sha256"] != two["docs_sha256"]:
        return [Compared(task, other.name, None, "scored on other rows")]
    return [
        Compared(
            f"{task}, {metric}",
            other.name,
            paired_means(one["samples"][metric], two["samples"][metric], seed=seed),
        )
        for metric in ("acc", "acc_norm")
        if metric in one["samples"] and metric in two["samples"]
    ]


def _sentences(task: str, ones: list[dict[str, Any]], other: Side, seed: int) -> list[Compared]:
    twos = other.sentences[task]
    if len({run["data_sha256"] for run in (*ones, *twos)}) > 1:
        return [Compared(task, other.name, None, "measured on other examples")]
    split, labels = next(iter(ones[0]["labels"].items()))
    predictions = [[run["predictions"][split] for run in runs] for runs in (ones, twos)]
    return [
        Compared(
            f"{task}, {metric}",
            other.name,
            paired_metric(METRICS[metric], labels, *predictions, draws=500, seed=seed),
        )
        for metric in ones[0]["dev"]
        if metric in METRICS
    ]
