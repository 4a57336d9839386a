"""Runs side by side, from the contents of their folders, and measured now if a text is given.

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

from spikeformers.data import load_corpus
from spikeformers.errors import UsageError
from spikeformers.evaluation import context_of, decoding_speeds
from spikeformers.evaluation.bootstrap import Difference, paired_means, paired_metric
from spikeformers.foreign import read_json
from spikeformers.models import load_model
from spikeformers.progress import Move, Tell
from spikeformers.studies.gather import Curve, loss_curve
from spikeformers.studies.machine import machine, versions
from spikeformers.studies.model_input import read_split
from spikeformers.studies.quality import ModelFigures, measure_model
from spikeformers.studies.results import read_sentences, read_zeroshot
from spikeformers.training.glue import METRICS, summarise
from spikeformers.training.journal import SEEN, read_metrics

SPEED_TOKENS = 32


@dataclass
class RunFigures:
    """The figures of one run; unknown ones are absent."""

    name: str
    folder: Path
    figures: dict[str, float] = field(default_factory=dict)
    zeroshot: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Task -> its part of a zero-shot result."""
    sentences: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Task -> results of fine-tuning, one per seed."""

    def fine_tuned(self, task: str) -> dict[str, Any]:
        """Mean and spread over seeds, and the majority's score; empty for a task it lacks."""
        if task not in self.sentences:
            return {}
        return dict(summarise(self.sentences[task])["tasks"][task])


@dataclass
class Comparison:
    """Runs side by side; the others are compared with the first."""

    runs: list[RunFigures]
    differences: list[Compared]
    where: dict[str, object]
    """Machine, versions and, if something was measured, the text."""
    curves: list[Curve]
    """Losses of the runs that have them, over the tokens they saw."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON: models (name, folder, figures), differences."""
        return {
            "models": [
                {"name": run.name, "folder": str(run.folder), "figures": run.figures}
                for run in self.runs
            ],
            "differences": [compared.as_dict() for compared in self.differences],
        }


def compare(
    runs: Sequence[str | Path],
    *,
    names: Sequence[str] = (),
    data: str = "",
    split: str = "validation",
    tokens: int = 4096,
    text_field: str = "text",
    progress: Tell | None = None,
) -> Comparison:
    """Read run folders and, with ``data``, measure their models on ``tokens`` of that text.

    ``names`` are their names in tables (default: of their folders). Differences from the first
    run's scores are those of a paired bootstrap over the same examples. Raises UsageError for fewer
    than two runs, for equal names, and for folders without anything to compare.
    """
    folders = [Path(run) for run in runs]
    figures = [
        read_run(folder, name) for folder, name in zip(folders, _names(folders, names), strict=True)
    ]
    where: dict[str, object] = {**machine(), **versions()}
    if data:
        where |= measure_runs(
            figures, data, split=split, tokens=tokens, text_field=text_field, progress=progress
        )
    curves = [
        loss_curve(run.name, run.folder)
        for run in figures
        if "tokens seen" in run.figures and (run.folder / "metrics.jsonl").is_file()
    ]
    return Comparison(figures, differences(figures), where, curves)


def _names(runs: Sequence[Path], names: Sequence[str]) -> list[str]:
    """One name per run; UsageError for a wrong number of names, or equal ones."""
    if len(runs) < 2:
        raise UsageError("compare takes at least two runs.")
    if names and len(names) != len(runs):
        raise UsageError(f"--names has {len(names)} names for {len(runs)} runs.")
    titles = list(names) or [run.resolve().name for run in runs]
    if len(set(titles)) < len(titles):
        titles = [str(run) for run in runs]
        if names or len(set(titles)) < len(titles):
            raise UsageError("two runs have the same name; give different ones with --names.")
    return titles


def read_run(folder: Path, name: str) -> RunFigures:
    """Read a run's folder; UsageError for one without anything to compare."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder; compare takes run folders.")
    run = RunFigures(name, folder)
    _read_training(run)
    for file in sorted((folder / "evaluations").glob("zeroshot-*.json")):
        for task, scores in read_zeroshot(file).items():
            if scores["limit"] is None:
                run.zeroshot[task] = scores
    for pattern in ("result.json", "*/result.json", "*/*/result.json"):
        for file in sorted(folder.glob(pattern)):
            if sentences := read_sentences(file, predicted=True):
                run.sentences.setdefault(sentences["task"], []).append(sentences)
    if not (run.figures or run.zeroshot or run.sentences):
        raise UsageError(
            f"{folder} contains no run, no evaluations of `spikeformers evaluate zeroshot` and no "
            "results of `spikeformers finetune`."
        )
    return run


def _read_training(run: RunFigures) -> None:
    file = run.folder / "run.json"
    if file.is_file():
        record = read_json(file, needed={"parameters": int, "data": dict})
        run.figures["parameters"] = record["parameters"]
        if "examples" in record["data"]:  # a run of finetune: its losses are of another kind
            return
    lines = read_metrics(run.folder / "metrics.jsonl", needed=("seconds", SEEN))
    trained = [line for line in lines if line["kind"] == "train"]
    held_out = [line for line in lines if line["kind"] == "validation"]
    if trained:
        unit = next(key for key in trained[-1] if key.endswith("s_seen")).removesuffix("s_seen")
        seen = trained[-1][f"{unit}s_seen"]
        run.figures[f"{unit}s seen"] = seen
        if seconds := trained[-1]["seconds"]:
            run.figures[f"training {unit}s/s"] = seen / seconds
        if "density" in trained[-1]:
            run.figures["density, last batch"] = trained[-1]["density"]
    if held_out:
        unit = next(key for key in held_out[-1] if key.endswith("s_seen")).removesuffix("s_seen")
        for key, title in (
            ("loss", f"validation nats/{unit}"),
            ("bits_per_byte", "bits/byte"),
            ("accuracy", "validation accuracy"),
        ):
            if key in held_out[-1]:
                run.figures[title] = held_out[-1][key]


def measure_runs(
    runs: Sequence[RunFigures],
    data: str,
    *,
    split: str = "validation",
    tokens: int = 4096,
    text_field: str = "text",
    progress: Tell | None = None,
) -> dict[str, object]:
    """Add quality, density, energy and decoding speed on the same text to ``figures``.

    Only causal models have bits per byte and a decoding speed. Returns facts about the text.
    Errors as ``load_model``, ``load_corpus`` and ``measure_model``.
    """
    tell = progress or (lambda *_: None)
    corpus = load_corpus(data, text_field=text_field)
    models = {run.name: load_model(run.folder) for run in runs}
    parts = {
        name: read_split(corpus, tokenizer, split, tell) for name, (_, tokenizer) in models.items()
    }
    writers = {}
    for run in runs:
        model, tokenizer = models[run.name]
        context = context_of(model)
        measured = measure_model(
            model, tokenizer, parts[run.name],
            context=context, tokens=tokens, energy_tokens=tokens,
            scoring=partial(tell, f"scoring, {run.name}"),
            counting=partial(tell, f"counting events, {run.name}"),
        )  # fmt: skip
        run.figures |= _figures(measured)
        if measured.quality.kind == "causal":
            writers[run.name] = (model, context)
    if writers:
        speeds = _speeds(writers, partial(tell, "timing"))
        for run in runs:
            if run.name in speeds:
                run.figures["writing tokens/s"] = speeds[run.name]
    return {"text": f"{corpus.name}, {split}, {tokens:,} tokens", "sha256": corpus.digest}


def _figures(measured: ModelFigures) -> dict[str, float]:
    quality, energy = measured.quality, measured.energy
    figures: dict[str, float] = {"parameters": measured.parameters}
    if quality.kind == "causal":
        figures["measured bits/byte"] = float(quality.bits_per_byte or 0)
    else:
        figures["masked nats/token"] = float(quality.masked_loss or 0)
    if energy.density is not None:
        figures["density"] = energy.density
    figures["nJ/token"] = energy.picojoules_per_token / 1e3
    figures["nJ/token with elementwise"] = energy.with_elementwise_per_token / 1e3
    return figures


def _speeds(writers: Mapping[str, tuple[Any, int]], progress: Move) -> dict[str, float]:
    """Tokens per second of greedy decoding from the same prompt, in turns."""
    shortest = min(context for _, context in writers.values())
    new = min(SPEED_TOKENS, shortest // 2)
    prompt = list(range(1, 1 + min(8, shortest - new)))
    speeds = decoding_speeds(
        {name: model for name, (model, _) in writers.items()}, prompt,
        new_tokens=new, repeats=3, progress=progress,
    )  # fmt: skip
    return {name: speed.tokens_per_second for name, speed in speeds.items()}


@dataclass(frozen=True)
class Compared:
    """One score compared with the first model's; ``why`` explains a missing difference."""

    score: str
    model: str
    difference: Difference | None
    why: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        figures = {} if self.difference is None else self.difference.as_dict()
        return {"what": self.score, "model": self.model, "why": self.why, **figures}


def differences(runs: Sequence[RunFigures], seed: int = 0) -> list[Compared]:
    """Every score of every run minus the first run's, by the paired bootstrap."""
    first, *others = runs
    rows: list[Compared] = []
    for other in others:
        for task in first.zeroshot:
            if task in other.zeroshot:
                rows += _zeroshot(task, first.zeroshot[task], other, seed)
        for task in first.sentences:
            if task in other.sentences:
                rows += _sentences(task, first.sentences[task], other, seed)
    return rows


def _zeroshot(task: str, first: dict[str, Any], other: RunFigures, seed: int) -> list[Compared]:
    second = other.zeroshot[task]
    if first["docs_sha256"] != second["docs_sha256"]:
        return [Compared(task, other.name, None, "scored on other rows")]
    return [
        Compared(
            f"{task}, {metric}",
            other.name,
            paired_means(first["samples"][metric], second["samples"][metric], seed=seed),
        )
        for metric in ("acc", "acc_norm")
        if metric in first["samples"] and metric in second["samples"]
    ]


def _sentences(
    task: str, first: list[dict[str, Any]], other: RunFigures, seed: int
) -> list[Compared]:
    second = other.sentences[task]
    if len({run["data_sha256"] for run in (*first, *second)}) > 1:
        return [Compared(task, other.name, None, "measured on other examples")]
    split, labels = next(iter(first[0]["labels"].items()))
    predictions = [[run["predictions"][split] for run in runs] for runs in (first, second)]
    return [
        Compared(
            f"{task}, {metric}",
            other.name,
            paired_metric(METRICS[metric], labels, *predictions, draws=500, seed=seed),
        )
        for metric in first[0]["dev"]
        if metric in METRICS
    ]
