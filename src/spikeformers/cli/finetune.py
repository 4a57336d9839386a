"""``spikeformers finetune`` and ``spikeformers evaluate glue``: tasks of sentences."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spikeformers.cli._options import Json
from spikeformers.errors import CheckpointError, ConfigError, DataError, UsageError
from spikeformers.foreign import foreign

if TYPE_CHECKING:
    from spikeformers.data.glue import SentenceData
    from spikeformers.training import TrainConfig

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
"""BERT's and SpikeLM's recipe of fine-tuning; epochs are the task's."""
DataDir = Annotated[
    Path | None,
    typer.Option(help="Folder with the sets; nothing is fetched then.", show_default="the hub"),
]


def finetune(
    model: Annotated[Path, typer.Argument(help="Pretrained masked model.", metavar="MODEL")],
    task: Annotated[str, typer.Option(help="sst2, cola, ..., glue, sentiment; several by commas.")],
    out: Annotated[Path, typer.Option(help="Folder for all runs: TASK/seed-N.")],
    seeds: Annotated[int, typer.Option(min=1, help="How many runs a task: seeds from 0.")] = 1,
    data_dir: DataDir = None,
    epochs: Annotated[
        float | None,
        typer.Option(min=0.0, help="Passes over the training set.", show_default="the task's"),
    ] = None,
    assign: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value, often: a field of TrainConfig.", metavar="K=V"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the runs in --out, exactly.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Fine-tune a pretrained WE-Spikingformer, its dense twin or BERT on tasks of sentences.

    GLUE: cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte (glue means these), wnli. Sentiment: mr,
    subj, cr, sst5. Every run starts from MODEL with a fresh head. Nothing is selected on the dev
    set: scores are those of the last step. --set reaches TrainConfig (learning_rate, batch_size,
    context, steps ...); epochs are those of SpikeLM's recipe. Test predictions are written in
    GLUE's submission format. Ctrl-C leaves a checkpoint; --resume continues; torchrun works as in
    pretrain.

    JSON: as evaluate glue.
    """
    from spikeformers.cli._output import is_main_process, say, start
    from spikeformers.cli._recipe import from_assignments
    from spikeformers.data.glue import load_sentences, task_names
    from spikeformers.storage import check_folder, check_unlocked

    start(verbose=is_main_process())
    given = from_assignments(assign or [])
    if strange := [*given.model, *given.data, *given.distill]:
        raise ConfigError(f"--set {strange[0]}: only fields of TrainConfig can be set here.")
    if "seed" in given.train:
        raise ConfigError("--set seed: runs have the seeds 0, 1, ...; --seeds says how many.")
    if epochs is not None and {"steps", "tokens"} & set(given.train):
        raise ConfigError("--epochs and --set steps exclude each other.")
    names = task_names(task)
    if is_main_process():
        check_folder(out)
        for name in names:
            for seed in range(seeds):
                check_unlocked(out / name / f"seed-{seed}")
    loaded = {name: load_sentences(name, data_dir) for name in names}
    results = []
    for name, data in loaded.items():
        for seed in range(seeds):
            config = _config(data, given.train, epochs, seed)
            result = _one(model, data, config, out / name / f"seed-{seed}", resume)
            if result is None:
                arguments = ["finetune", str(model), "--task", task, "--out", str(out), "--resume"]
                again = f"spikeformers {shlex.join(arguments)}"
                say(f"Stopped in {name}, seed {seed}; {again} and the other options continue.")
                raise typer.Exit(130)
            results.append(result)
    if is_main_process():
        _report(out, results, as_json)


def _config(
    data: SentenceData, given: dict[str, Any], epochs: float | None, seed: int
) -> TrainConfig:
    from spikeformers.training import TrainConfig

    values = DEFAULTS | given | {"seed": seed}
    size = TrainConfig.from_dict(values | {"steps": 1}).batch_size
    an_epoch = max(1, math.ceil(len(data.train) / size))
    if not {"steps", "tokens"} & set(given):
        passes = data.task.epochs if epochs is None else epochs
        values["steps"] = max(1, round(passes * an_epoch))
    values.setdefault("eval_every", an_epoch)
    values.setdefault("save_every", an_epoch)
    return TrainConfig.from_dict(values)


def _one(
    model: Path, data: SentenceData, config: TrainConfig, out: Path, resume: bool
) -> dict[str, Any] | None:
    """Train and measure one run, or take the result of a finished one; None: interrupted."""
    from spikeformers.cli._output import is_main_process, say
    from spikeformers.evaluation.provenance import weights_digest
    from spikeformers.models.classifier import load_classifier
    from spikeformers.training import TrainConfig, train
    from spikeformers.training.glue import Finetuning, SentenceStore

    if resume and (out / "result.json").is_file():
        result = read_result(out / "result.json")
        before = TrainConfig.from_dict(result["config"])
        if result["data_sha256"] != data.digest or before != config:
            raise ConfigError(
                f"{out} holds a finished run with other data or other settings. Give those it "
                "has, or another --out."
            )
        return result
    loaded, tokenizer = load_classifier(model, data.task.labels, config.seed)
    start = {"started_from": str(model), "started_from_sha256": weights_digest(loaded)}
    if is_main_process():
        say(
            f"{data.task.name}, seed {config.seed}: {len(data.train):,} examples, "
            f"{config.total_steps:,} steps of {config.batch_size}; {data.origin}"
        )
    store = SentenceStore(data)
    ended = train(
        loaded,
        store,
        tokenizer,
        out,
        config,
        task=Finetuning(loaded, start),
        resume=resume and (out / "run.json").is_file(),
    )
    if ended.interrupted:
        return None
    if not is_main_process():
        return {}
    return _measured(out, data)


def _measured(run: Path, data: SentenceData) -> dict[str, Any]:
    """Measure a trained run, and write its card."""
    from spikeformers.evaluation.provenance import software_record
    from spikeformers.models import load_model
    from spikeformers.progress import LOG, Progress
    from spikeformers.reporting import sentence_card, write_text
    from spikeformers.storage import run_lock
    from spikeformers.training.glue import measure_run

    with run_lock(run), Progress(log=run / LOG) as progress:
        tell = partial(progress, unit="examples")
        result = measure_run(run, *load_model(run), data, software_record(), tell)
        write_text(run / "README.md", sentence_card(result))
    return result


def glue(
    run: Annotated[Path, typer.Argument(help="Folder of `finetune`.", metavar="RUN")],
    data_dir: DataDir = None,
    again: Annotated[
        bool, typer.Option("--again", help="Score the models anew instead of reading results.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Dev scores of fine-tuned runs: mean and spread over seeds, and the mean of the suite.

    RUN is the --out of finetune, or one run in it. Scores are in hundredths. Two means, over the
    eight tasks of GLUE (WNLI left out) or those that are there: standard, of each task's mean
    metric; and paper, of one number a task (MNLI matched, F1 of QQP and MRPC, Pearson of STS-B).
    Majority is what one and the same answer to all examples would score: class 1 for F1, 0 for a
    correlation.

    JSON: tasks (by name: metrics, standard, paper, each mean, deviation, seeds; majority), means
    (standard, paper), majority_means, means_over, whole, selection, runs.
    """
    from spikeformers.cli._output import start
    from spikeformers.data.glue import load_sentences
    from spikeformers.storage import check_folder

    start(verbose=False)
    if not run.is_dir():
        raise UsageError(f"{run} is not a folder; give the --out of spikeformers finetune.")
    if again:
        check_folder(run, "RUN")
    files = sorted([*run.glob("result.json"), *run.glob("*/result.json")])
    files = sorted({*files, *run.glob("*/*/result.json")})
    if not files:
        raise UsageError(f"{run} holds no finished run of spikeformers finetune.")
    results = [read_result(file) for file in files]
    if again:
        for place, file in enumerate(files):
            data = load_sentences(results[place]["task"], data_dir)
            if data.digest != results[place]["data_sha256"]:
                raise DataError(f"{file.parent} was trained and measured on other data.")
            results[place] = _measured(file.parent, data)
    _report(run, results, as_json)


def read_result(path: Path) -> dict[str, Any]:
    """A run's ``result.json``; CheckpointError for one that is none."""
    from spikeformers.reporting.results import read_sentences

    found = read_sentences(path)
    if found is None:
        raise CheckpointError(f"{path} is not a result of spikeformers finetune.")
    return found


def _report(out: Path, results: Sequence[dict[str, Any]], as_json: bool) -> None:
    """Print the summary, and write it where there are several runs."""
    from spikeformers.cli._output import make_table, print_json, print_table
    from spikeformers.reporting import write_text
    from spikeformers.training.glue import summarise

    dropped = ("predictions", "labels", "model")
    with foreign(f"the results in {out} do not fit together"):
        summary = summarise(results)
    summary |= {
        "selection": results[0]["selection"],
        "runs": [{k: v for k, v in one.items() if k not in dropped} for one in results],
    }
    if not (out / "run.json").exists():
        write_text(out / "glue.json", json.dumps(summary, indent=1) + "\n")
    if as_json:
        print_json(summary)
        return
    rows = []
    for task, found in summary["tasks"].items():
        for metric, one in found["metrics"].items():
            majority = f"{found['majority'][metric]:.2f}"
            rows.append((task, metric, _told(one), majority, str(one["seeds"])))
    print_table(make_table("Dev sets", ("task", "metric", "score", "majority", "seeds"), rows))
    over = summary["means_over"]
    if over:
        which = "the eight tasks" if summary["whole"] else f"{len(over)} of 8: {', '.join(over)}"
        means = ", ".join(
            f"{way} {value:.2f} (majority {summary['majority_means'][way]:.2f})"
            for way, value in summary["means"].items()
        )
        print(f"mean over {which}: {means}")
    print(f"selection on the dev set: {summary['selection']}")


def _told(one: dict[str, Any]) -> str:
    spread = "" if one["deviation"] is None else f" ± {one['deviation']:.2f}"
    return f"{one['mean']:.2f}{spread}"
