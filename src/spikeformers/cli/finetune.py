"""``spikeformers finetune`` and ``spikeformers evaluate glue``: tasks of sentences."""

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
        help="Folder with the sets; nothing is fetched then.",
        show_default="the hub",
    ),
]


def finetune(
    model: Annotated[Path, typer.Argument(help="Pretrained masked model.", metavar="MODEL")],
    task: Annotated[str, typer.Option(help="sst2, cola, ..., glue, sentiment; several by commas.")],
    out: Annotated[Path, typer.Option(help="Folder for all runs: TASK/seed-N.")],
    seeds: Annotated[int, typer.Option(min=1, help="Runs per task, with seeds from 0.")] = 1,
    data_dir: DataDir = None,
    epochs: Annotated[
        float | None,
        typer.Option(min=0.0, help="Passes over the training set.", show_default="the task's"),
    ] = None,
    assign: Set = None,
    resume: Resume = False,
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
        again = f"spikeformers {shlex.join(arguments)}"
        if is_main_process():
            say(f"Stopped in {result.interrupted_in}; {again} and the other options continue.")
        raise typer.Exit(130)
    if result.summary is not None:
        _print(result.summary, as_json)


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
