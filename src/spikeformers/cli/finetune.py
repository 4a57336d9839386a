"""``spikeformers finetune`` and ``spikeformers evaluate glue``: sentence classification tasks."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from spikeformers.cli._options import Json, Resume, Set

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        help="Folder with the data sets; nothing is downloaded then.",
        show_default="the hub",
    ),
]


def finetune(
    model: Annotated[
        Path, typer.Argument(help="Folder of a pretrained masked model.", metavar="MODEL")
    ],
    task: Annotated[
        str,
        typer.Option(
            help="Tasks, comma-separated: sst2, cola, ..., or the groups glue and sentiment."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for all runs, as OUT/TASK/seed-N.")],
    seeds: Annotated[int, typer.Option(min=1, help="Runs per task, with seeds 0, 1, ...")] = 1,
    data_dir: DataDir = None,
    epochs: Annotated[
        float | None,
        typer.Option(min=0.0, help="Passes over the training set.", show_default="the task's"),
    ] = None,
    assign: Set = None,
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Fine-tune a pretrained WE-Spikingformer, its dense twin or BERT on sentence tasks.

    GLUE: cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte (the group glue), and wnli. Sentiment: mr,
    subj, cr, sst5. Every run starts from MODEL with a new head. Nothing is selected on the dev set:
    scores are those of the last step. --set sets fields of TrainConfig (learning_rate, batch_size,
    context, steps ...); the default epochs are those of SpikeLM's recipe. Test predictions are
    written in GLUE's submission format. Ctrl-C leaves a checkpoint; --resume continues; torchrun
    works as in pretrain.

    JSON: as evaluate glue.
    """
    from spikeformers.cli._output import on_terminal, say
    from spikeformers.progress import is_main_process

    with on_terminal() as callbacks:
        from spikeformers import runs

        result = runs.finetune(
            model, task, out=out, seeds=seeds, data_dir=data_dir, epochs=epochs,
            settings=assign, resume=resume, **callbacks,
        )  # fmt: skip
    if result.interrupted:
        arguments = ["finetune", str(model), "--task", task, "--out", str(out), "--resume"]
        resumed = f"spikeformers {shlex.join(arguments)}"
        if is_main_process():
            say(f"Stopped in {result.interrupted_in}; continue with: {resumed} (and other options)")
        raise typer.Exit(130)
    if result.summary is not None:
        _print(result.summary, as_json)


def glue(
    run: Annotated[Path, typer.Argument(help="Folder written by finetune.", metavar="RUN")],
    data_dir: DataDir = None,
    again: Annotated[
        bool,
        typer.Option("--again", help="Score the models again instead of reading stored results."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Show dev scores of fine-tuned runs: mean and spread over seeds, and the mean of the suite.

    RUN is the --out of finetune, or one run in it. Scores are in percent. There are two means, over
    the eight tasks of GLUE (without WNLI) or those that were run: standard averages each task's
    mean metric; paper averages one number per task (MNLI matched, F1 of QQP and MRPC, Pearson of
    STS-B). Majority is the score of giving the same answer to every example: class 1 for F1, 0 for
    a correlation.

    JSON: tasks (by name: metrics, standard, paper, each mean, deviation, seeds; majority), means
    (standard, paper), majority_means, means_over, whole, selection, runs.
    """
    from spikeformers.cli._output import on_terminal

    with on_terminal(verbose=False) as callbacks:
        from spikeformers.runs import score_finetuned

        summary = score_finetuned(
            run, data_dir=data_dir, again=again, progress=callbacks["progress"]
        )
    _print(summary, as_json)


def _print(summary: dict[str, Any], as_json: bool) -> None:
    from spikeformers.cli._output import make_table, print_json, print_table

    if as_json:
        print_json(summary)
        return
    rows = []
    for task, scores in summary["tasks"].items():
        for metric, score in scores["metrics"].items():
            majority = f"{scores['majority'][metric]:.2f}"
            spread = "" if score["deviation"] is None else f" ± {score['deviation']:.2f}"
            rows.append(
                (task, metric, f"{score['mean']:.2f}{spread}", majority, str(score["seeds"]))
            )
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
