"""Fine-tuning on sentence tasks (GLUE, sentiment): runs over tasks and seeds, and their scores.

OUT/TASK/seed-N/    one run: its model, result.json, predictions, model card
OUT/glue.json       the scores of all of them
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from spikeformers.data.glue import SentenceData, load_sentences, task_names
from spikeformers.errors import CheckpointError, ConfigError, DataError, UsageError
from spikeformers.evaluation.provenance import software_record, weights_digest
from spikeformers.foreign import foreign
from spikeformers.models import load_model
from spikeformers.models.classifier import load_classifier
from spikeformers.progress import LOG, Listener, Progress, is_main_process
from spikeformers.reporting import sentence_card
from spikeformers.runs.recipe import Settings, from_settings
from spikeformers.runs.reporter import OnMessage, Reporter
from spikeformers.storage import check_folder, check_unlocked, run_lock, write_text
from spikeformers.studies.results import read_sentences
from spikeformers.training import TrainConfig, train
from spikeformers.training.glue import SentenceFinetuning, SentenceStore, measure_run, summarise

DEFAULTS: dict[str, Any] = {
    "learning_rate": 2e-5,
    "batch_size": 32,
    "context": 128,
    "schedule": "linear",
    "min_learning_rate_ratio": 0.0,
    "warmup_ratio": 0.1,
    "betas": (0.9, 0.999),
    "weight_decay": 0.01,
    "keep_checkpoints": 1,
}
"""The fine-tuning recipe of BERT and SpikeLM; the number of epochs is the task's."""
NOT_SUMMARISED = ("predictions", "labels", "model")


@dataclass(frozen=True)
class FinetuneResult:
    """The result of all runs: their ``summary``, or the run that was interrupted."""

    out: Path
    summary: dict[str, Any] | None = None
    """As ``evaluate glue --json``; None if interrupted, and in torchrun's other processes."""
    interrupted_in: str = ""
    """Such as "sst2, seed 1"; empty if all runs finished."""

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended a run early, with a checkpoint to resume from."""
        return bool(self.interrupted_in)


def finetune(
    model: str | Path,
    task: str,
    *,
    out: str | Path,
    seeds: int = 1,
    data_dir: str | Path | None = None,
    epochs: float | None = None,
    settings: Settings | None = None,
    resume: bool = False,
    progress: Listener | None = None,
    on_message: OnMessage | None = None,
) -> FinetuneResult:
    """Fine-tune a pretrained masked ``model`` on sentence tasks, into ``out``/TASK/seed-N.

    ``task`` is sst2, cola, ..., glue (the eight), sentiment (the four), or several with commas; the
    runs have the seeds 0 to ``seeds`` - 1. ``data_dir`` contains the sets (default: the hub).
    ``epochs`` defaults to the task's; ``settings`` are fields of TrainConfig. ``resume``
    continues, and takes the results of runs that have finished.

    Raises ``ConfigError``, ``DataError`` and ``UsageError`` before anything is written, and what
    `train` raises.
    """
    out, reporter = Path(out), Reporter(progress, on_message)
    values = _training_values(settings, epochs)
    names = task_names(task)
    if is_main_process():
        check_folder(out)
        for name in names:
            for seed in range(seeds):
                check_unlocked(out / name / f"seed-{seed}")
    tasks = {name: load_sentences(name, _path(data_dir)) for name in names}
    results = []
    for name, data in tasks.items():
        for seed in range(seeds):
            config = _config(data, values, epochs, seed)
            folder = out / name / f"seed-{seed}"
            result = _run(Path(model), data, config, folder, reporter, resume=resume)
            if result is None:
                return FinetuneResult(out, interrupted_in=f"{name}, seed {seed}")
            results.append(result)
    return FinetuneResult(out, _summary(out, results) if is_main_process() else None)


def score_finetuned(
    run: str | Path,
    *,
    data_dir: str | Path | None = None,
    again: bool = False,
    progress: Listener | None = None,
) -> dict[str, Any]:
    """Summary of the dev scores in ``run``, which is `finetune`'s ``out`` or one run in it.

    Mean and spread over seeds, and the mean of the suite; ``glue.json`` is written if ``run``
    contains several runs. ``again`` scores the models again instead of reading results. Raises
    ``UsageError`` if there is no finished run, ``CheckpointError``, and ``DataError`` if the data
    are not those of the run.
    """
    run, reporter = Path(run), Reporter(progress)
    if not run.is_dir():
        raise UsageError(f"{run} is not a folder; give the --out of spikeformers finetune.")
    if again:
        check_folder(run, "RUN")
    files = {*run.glob("result.json"), *run.glob("*/result.json"), *run.glob("*/*/result.json")}
    if not files:
        raise UsageError(f"{run} contains no finished run of spikeformers finetune.")
    results = {file.parent: read_result(file) for file in sorted(files)}
    if again:
        for folder, result in results.items():
            data = load_sentences(result["task"], _path(data_dir))
            if data.digest != result["data_sha256"]:
                raise DataError(f"{folder} was trained and measured on other data.")
            results[folder] = _measure(folder, data, reporter)
    return _summary(run, list(results.values()))


def read_result(path: Path) -> dict[str, Any]:
    """A run's ``result.json``; ``CheckpointError`` for a file that is not one."""
    result = read_sentences(path)
    if result is None:
        raise CheckpointError(f"{path} is not a result of spikeformers finetune.")
    return result


def _path(folder: str | Path | None) -> Path | None:
    return None if folder is None else Path(folder)


def _training_values(settings: Settings | None, epochs: float | None) -> dict[str, Any]:
    """The training keys of the settings; ``ConfigError`` for any other."""
    recipe = from_settings(settings)
    if other_keys := [*recipe.model, *recipe.data, *recipe.distill]:
        raise ConfigError(f"--set {other_keys[0]}: only fields of TrainConfig can be set here.")
    if "seed" in recipe.train:
        raise ConfigError("--set seed: runs have the seeds 0, 1, ...; --seeds sets how many.")
    if epochs is not None and {"steps", "tokens"} & set(recipe.train):
        raise ConfigError("--epochs and --set steps exclude each other.")
    return recipe.train


def _config(
    data: SentenceData, settings: Mapping[str, Any], epochs: float | None, seed: int
) -> TrainConfig:
    values = DEFAULTS | dict(settings) | {"seed": seed}
    size = TrainConfig.from_dict(values | {"steps": 1}).batch_size
    epoch_steps = max(1, math.ceil(len(data.train) / size))
    if not {"steps", "tokens"} & set(settings):
        epochs = data.task.epochs if epochs is None else epochs
        values["steps"] = max(1, round(epochs * epoch_steps))
    values.setdefault("eval_every", epoch_steps)
    values.setdefault("save_every", epoch_steps)
    return TrainConfig.from_dict(values)


def _run(
    model: Path,
    data: SentenceData,
    config: TrainConfig,
    out: Path,
    reporter: Reporter,
    *,
    resume: bool,
) -> dict[str, Any] | None:
    """Train and measure one run, or read the result of a finished one; None if interrupted."""
    if resume and (out / "result.json").is_file():
        return _finished(out, data, config)
    loaded, tokenizer = load_classifier(model, data.task.labels, config.seed)
    start = {"started_from": str(model), "started_from_sha256": weights_digest(loaded)}
    reporter.say(
        f"{data.task.name}, seed {config.seed}: {len(data.train):,} examples, "
        f"{config.total_steps:,} steps of {config.batch_size}; {data.origin}"
    )
    trained = train(
        loaded,
        SentenceStore(data),
        tokenizer,
        out,
        config,
        task=SentenceFinetuning(loaded, start),
        resume=resume and (out / "run.json").is_file(),
        progress=reporter,
    )
    if trained.interrupted:
        return None
    return _measure(out, data, reporter) if is_main_process() else {}


def _finished(out: Path, data: SentenceData, config: TrainConfig) -> dict[str, Any]:
    """The result of a finished run; ``ConfigError`` if its data or settings differ."""
    result = read_result(out / "result.json")
    before = TrainConfig.from_dict(result["config"])
    if result["data_sha256"] != data.digest or before != config:
        raise ConfigError(
            f"{out} contains a finished run with other data or settings. Give the same ones, "
            "or another --out."
        )
    return result


def _measure(run: Path, data: SentenceData, reporter: Reporter) -> dict[str, Any]:
    """Measure a trained run, and write its card."""
    with (
        run_lock(run),
        Progress(show=False, log=run / LOG, listener=reporter) as progress,
    ):
        tell = partial(progress, unit="examples")
        result = measure_run(run, *load_model(run), data, software_record(), tell)
        write_text(run / "README.md", sentence_card(result))
    return result


def _summary(out: Path, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Summarise the results; writes the summary if there are several runs."""
    with foreign(f"the results in {out} do not fit together"):
        summary = summarise(results)
    summary |= {
        "selection": results[0]["selection"],
        "runs": [
            {key: value for key, value in result.items() if key not in NOT_SUMMARISED}
            for result in results
        ],
    }
    if not (out / "run.json").exists():
        write_text(out / "glue.json", json.dumps(summary, indent=1) + "\n")
    return dict(summary)
