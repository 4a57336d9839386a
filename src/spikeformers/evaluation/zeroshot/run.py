"""Run zero-shot tasks one by one; each report contains everything that is needed to repeat it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval.evaluator import evaluate

from spikeformers.errors import ConfigError, DataError
from spikeformers.evaluation.provenance import model_record, software_record
from spikeformers.evaluation.zeroshot.baselines import (
    at_chance,
    baselines,
    mean_accuracy,
    standard_error,
)
from spikeformers.evaluation.zeroshot.cache import LikelihoodCache
from spikeformers.evaluation.zeroshot.names import GROUPS
from spikeformers.evaluation.zeroshot.reader import Reader, ReaderLM
from spikeformers.evaluation.zeroshot.scorer import SpikeformersLM, positions_of
from spikeformers.evaluation.zeroshot.tasks import (
    docs_digest,
    golds,
    load_task,
    members,
    quiet,
    silent,
)
from spikeformers.meters import Stopwatch
from spikeformers.progress import Tell

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ACCURACIES = ("acc", "acc_norm")


@dataclass(frozen=True)
class TaskReport:
    """One task's scores; ``samples`` are those of the single documents, in order."""

    task: str
    metrics: dict[str, dict[str, Any]]
    """Metric -> value and stderr; for an accuracy also chance, majority and at_chance."""
    documents: int
    available: int
    limit: int | None
    split: str
    official_split: str
    source: str
    files: tuple[str, ...]
    docs_sha256: str
    rules: dict[str, int]
    """Number of requests by rule of `SpikeformersLM`: truncated, split, merged, unaligned."""
    requests: int
    seconds: float
    task_version: Any
    prompt: dict[str, Any]
    samples: dict[str, list[float]] = field(repr=False, default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


class Zeroshot:
    """A model ready to be scored. ``name`` is its name in results."""

    def __init__(
        self,
        name: str,
        model: PreTrainedModel | Reader,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int | str = "auto",
        max_length: int | None = None,
        cached: bool = False,
        cache_dir: Path | str | None = "auto",
        progress: Tell | None = None,
    ) -> None:
        quiet()
        longest = model.positions if isinstance(model, Reader) else positions_of(model)
        if max_length is not None and not 2 <= max_length <= longest:
            raise ConfigError(f"max length is {max_length}; this model takes 2 to {longest}.")
        self.progress, self._task = progress, ""
        if isinstance(model, Reader):
            batch_size, device = 1, model.kind
            self.record = model.record(name, tokenizer)
        else:
            device = model.device.type
            self.record = model_record(name, model, tokenizer)
        self.settings = {
            "batch_size": batch_size,
            "max_length": max_length or longest,
            "cached": cached,
            "device": device,
            "num_fewshot": 0,
            "seeds": "none: nothing is drawn",
        }
        identity = {key: self.record[key] for key in ("weights_sha256", "tokenizer_sha256")}
        identity |= {"config": self.record["config"], "dtype": self.record["dtype"]}
        identity |= {k: self.settings[k] for k in ("batch_size", "max_length", "cached", "device")}
        make = ReaderLM if isinstance(model, Reader) else SpikeformersLM
        self.lm = make(
            model,
            tokenizer,
            batch_size=batch_size,
            max_length=max_length,
            cached=cached,
            cache=LikelihoodCache(identity, cache_dir),
            progress=self._move,
        )

    def _move(self, done: int, total: int | None) -> None:
        if self.progress is not None:
            self.progress(self._task, done, total)

    def run(
        self, name: str, *, data_dir: Path | None = None, limit: int | None = None
    ) -> TaskReport:
        """One task over its first ``limit`` documents; ``blimp`` is the mean over its parts."""
        if limit is not None and limit < 1:
            raise ConfigError(f"--limit is {limit}; it must be at least 1.")
        parts = [self._run(part, data_dir, limit) for part in members(name)]
        return parts[0] if name != "blimp" else _pooled(name, parts)

    def _run(self, name: str, data_dir: Path | None, limit: int | None) -> TaskReport:
        loaded = load_task(name, data_dir)
        available = len(loaded.task.eval_docs)
        if not available:
            raise DataError(f"{name} has no rows in its {loaded.split} split.")
        self._task = name
        self.lm.notes.clear()
        watch = Stopwatch()
        loaded.task.set_config("num_fewshot", 0)
        with silent():
            results = evaluate(
                self.lm,
                {"tasks": {name: loaded.task}},
                limit=None if limit is None else min(limit, available),
                bootstrap_iters=0,
            )
        seconds = watch.read().wall
        rows = sorted(results["samples"][name], key=lambda row: row["doc_id"])
        config = json.loads(json.dumps(results["configs"][name], default=str))
        shown = ("doc_to_text", "doc_to_target", "doc_to_choice", "target_delimiter")
        samples = _samples(rows)
        return TaskReport(
            task=name,
            metrics=_metrics(
                results["results"][name], samples, *baselines(golds(loaded.task, rows))
            ),
            documents=len(rows),
            available=available,
            limit=limit,
            split=loaded.split,
            official_split=loaded.official_split,
            source=loaded.source,
            files=loaded.files,
            docs_sha256=docs_digest(loaded.task),
            rules={rule: count for rule, count in sorted(self.lm.notes.items()) if count},
            requests=sum(len(row["arguments"]) for row in rows),
            seconds=seconds,
            task_version=results["versions"].get(name),
            prompt={key: config[key] for key in shown if key in config},
            samples=samples,
        )

    def result(self, reports: Sequence[TaskReport]) -> dict[str, Any]:
        """Reports with model, settings, versions and commit, as written to JSON."""
        return {
            "format_version": 1,
            "kind": "zeroshot",
            "model": self.record,
            "settings": self.settings,
            **software_record(),
            "tasks": {report.task: report.as_dict() for report in reports},
            "means": means({report.task: report.metrics for report in reports}),
        }


def means(
    metrics: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> dict[str, dict[str, dict[str, Any]]]:
    """Mean of acc, and of acc_norm (acc for tasks without it), by complete group.

    ``metrics`` are those of `TaskReport` by task; each mean has chance and error, as a task's score
    has.
    """
    by_group = {}
    for group, names in GROUPS.items():
        if all(name in metrics for name in names):
            norm = [metrics[name].get("acc_norm") or metrics[name]["acc"] for name in names]
            by_group[group] = {
                "acc": mean_accuracy([metrics[name]["acc"] for name in names]),
                "acc_norm": mean_accuracy(norm),
            }
    return by_group


def _samples(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    names = [name for name in rows[0]["metrics"] if isinstance(rows[0][name], (int, float))]
    return {name: [float(row[name]) for row in rows] for name in names}


def _metrics(
    results: Mapping[str, Any],
    samples: Mapping[str, list[float]],
    chance: float | None,
    majority: float | None,
) -> dict[str, dict[str, Any]]:
    metrics: dict[str, dict[str, Any]] = {}
    for name, values in samples.items():
        value, error = float(results[f"{name},none"]), standard_error(values)
        if name == "perplexity":
            error *= value  # of exp(-mean), to first order
        metrics[name] = {"value": value if math.isfinite(value) else None, "stderr": error}
        if name in ACCURACIES:
            metrics[name] |= {
                "chance": chance,
                "majority": majority,
                "at_chance": at_chance(value, error, chance),
            }
    return metrics


def _pooled(name: str, parts: Sequence[TaskReport]) -> TaskReport:
    """The mean over parts with equal weights, and its error."""
    metrics: dict[str, dict[str, Any]] = {}
    for metric in ACCURACIES:
        accuracies = [part.metrics[metric] for part in parts if metric in part.metrics]
        if len(accuracies) == len(parts):
            metrics[metric] = mean_accuracy(accuracies)
    first = parts[0]
    rules: dict[str, int] = {}
    for part in parts:
        for rule, count in part.rules.items():
            rules[rule] = rules.get(rule, 0) + count
    digest = hashlib.sha256("".join(part.docs_sha256 for part in parts).encode()).hexdigest()
    return TaskReport(
        task=name,
        metrics=metrics,
        documents=sum(part.documents for part in parts),
        available=sum(part.available for part in parts),
        limit=first.limit,
        split=first.split,
        official_split=first.official_split,
        source=first.source,
        files=tuple(file for part in parts for file in part.files),
        docs_sha256=digest,
        rules=rules,
        requests=sum(part.requests for part in parts),
        seconds=sum(part.seconds for part in parts),
        task_version=first.task_version,
        prompt=first.prompt,
        samples={m: [v for part in parts for v in part.samples[m]] for m in metrics},
    )
