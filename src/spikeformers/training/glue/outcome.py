"""Measuring a finished run: dev metrics, predictions, and files in GLUE's submission format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikeformers.data.glue import SentenceData, SentenceTask
from spikeformers.foreign import check_object
from spikeformers.progress import Tell
from spikeformers.storage import write_text
from spikeformers.training.batches import check_context
from spikeformers.training.glue.examples import Encoded
from spikeformers.training.glue.metrics import majority_scores
from spikeformers.training.glue.task import answers, predict, scores
from spikeformers.training.journal import read_metrics
from spikeformers.training.run_folder import read_run

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CONFIG: dict[str, Any] = {"context": int, "batch_size": int, "seed": int}
DATA: dict[str, Any] = {"examples": dict, "sha256": str, "origin": str}
"""The keys that are read in the sections ``config`` and ``data`` of run.json."""
SELECTION = "none: the weights of the last step, with settings fixed before"


def measure_run(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: SentenceData,
    software: Mapping[str, Any],
    progress: Tell | None = None,
) -> dict[str, Any]:
    """Write ``result.json`` and prediction files into the run ``folder``; returns the result.

    ``software``: versions and commit. ``best_dev_step`` is the score if the step were selected on
    the dev set: an optimistic number, measured on the data that it was selected by.
    ``dev_majority`` is the best score of the same answer to the whole dev set.
    """
    tell = progress or (lambda *_: None)
    run = read_run(folder / "run.json")
    task, config = data.task, run["config"]
    check_object(config, CONFIG, f"config in {folder / 'run.json'}")
    check_object(run["data"], DATA, f"data in {folder / 'run.json'}")
    check_context(model, config["context"])
    dev: dict[str, float] = {}
    majority: dict[str, float] = {}
    predictions: dict[str, list[Any]] = {}
    for name, part in data.dev.items():
        encoded = Encoded(part, tokenizer, config["context"])
        outputs, loss = predict(
            model, encoded, config["batch_size"], model.device, partial(tell, f"scoring {name}")
        )
        end = "" if name == task.dev[0] else f"/{name.removeprefix('dev_')}"
        metrics = {"loss": loss} | scores(task, part.labels, outputs)
        dev |= {key + end: value for key, value in metrics.items()}
        assert part.labels is not None
        same = majority_scores(task.metrics, part.labels, task.num_labels)
        majority |= {key + end: value for key, value in same.items()}
        predictions[name] = answers(task, outputs).tolist()
    test: dict[str, float] = {}
    written = []
    for place, (name, part) in enumerate(data.test.items()):
        encoded = Encoded(part, tokenizer, config["context"])
        outputs, _ = predict(
            model, encoded, config["batch_size"], model.device, partial(tell, f"scoring {name}")
        )
        predictions[name] = answers(task, outputs).tolist()
        if part.labels is not None:
            test |= scores(task, part.labels, outputs)
        if task.submission:
            written.append(task.submission[place])
            write_text(folder / task.submission[place], submission(task, predictions[name]))
    result = {
        "format_version": 1,
        "kind": "sentences",
        "task": task.name,
        "seed": config["seed"],
        "dev": dev,
        "dev_majority": majority,
        "test": test,
        "selection": SELECTION,
        "best_dev_step": _best(folder, next(iter(task.metrics))),
        "examples": run["data"]["examples"],
        "data_sha256": run["data"]["sha256"],
        "origin": run["data"]["origin"],
        **(run.get("task") or {}),
        "config": config,
        "model": run["model"],
        "parameters": run.get("parameters"),
        **software,
        "submission": written,
        "predictions": predictions,
        "labels": {name: part.labels for name, part in data.dev.items()},
    }
    write_text(folder / "result.json", json.dumps(result, indent=1) + "\n")
    return result


def _best(folder: Path, metric: str) -> dict[str, Any] | None:
    validations = [
        line for line in read_metrics(folder / "metrics.jsonl") if line["kind"] == "validation"
    ]
    if not validations:
        return None
    best = max(validations, key=lambda line: line[metric])
    return {"step": best["step"], metric: best[metric]}


def submission(task: SentenceTask, predictions: list[Any]) -> str:
    """``index<TAB>prediction`` as gluebenchmark.com expects it: names of classes, or numbers."""

    def formatted(value: Any) -> str:
        return f"{value:.3f}" if task.is_regression else task.labels[value]

    lines = [f"{number}\t{formatted(value)}" for number, value in enumerate(predictions)]
    return "\n".join(["index\tprediction", *lines]) + "\n"
