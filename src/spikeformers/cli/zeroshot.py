"""``spikeformers evaluate zeroshot``: multiple-choice tasks without training, beside baselines."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from spikeformers.cli._options import Json, Threads


def zeroshot(
    model: Annotated[
        str,
        typer.Argument(help="Model folder, name on the hub, or engine file.", metavar="MODEL"),
    ],
    tasks: Annotated[
        str,
        typer.Option(
            help="Tasks, comma-separated, or paper (the eight tasks listed below).", metavar="NAMES"
        ),
    ] = "paper",
    data_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder with the data sets; nothing is downloaded then.", show_default="the hub"
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Documents per task.", show_default="all")
    ] = None,
    batch_size: Annotated[
        str,
        typer.Option(help="Inputs per batch, or auto (as many as fit a fixed number of tokens)."),
    ] = "auto",
    max_length: Annotated[
        int | None,
        typer.Option(
            min=2, help="Longest input in tokens.", show_default="the model's longest context"
        ),
    ] = None,
    cached: Annotated[
        bool,
        typer.Option(
            "--cached",
            help="Run each context once and its options from the key-value cache; faster for long "
            "contexts.",
        ),
    ] = False,
    gguf_file: Annotated[str, typer.Option(help="Name of a GGUF file in the folder.")] = "",
    dtype: Annotated[
        str, typer.Option(help="Number format: auto (as stored), fp32, bf16 or fp16.")
    ] = "auto",
    device: Annotated[str, typer.Option(help="Device to run on: auto, cpu, cuda or mps.")] = "auto",
    engine: Annotated[
        bool,
        typer.Option(
            "--engine", help="Score with the event-driven engine (an engine file always does)."
        ),
    ] = False,
    threads: Threads = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for zeroshot-TASK.json.", show_default="MODEL/evaluations"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure zero-shot accuracy by log-likelihood, with chance, majority and standard errors.

    paper stands for arc_easy, arc_challenge, boolq, headqa_en, openbookqa, hellaswag, piqa and
    winogrande. Others: lambada_openai, sciq, blimp, wsc, wsc273, copa, social_iqa, truthfulqa
    (mc1 and mc2). Tasks are defined by lm-evaluation-harness (pip install 'spikeformers[eval]');
    --data-dir changes only where their data is read from. A score within two standard errors of
    chance is marked, because it cannot be distinguished from guessing. After Ctrl-C the same
    command continues with all results computed so far. Scores of complete tasks (without --limit)
    are added to the model card, README.md. --engine reads one text at a time on the CPU (in fp32
    from a model folder, with its own weights from an engine file) and writes no file without --out.

    JSON: model (name, weights_sha256, config ...), settings, versions, commit, tasks (by name:
    metrics with value, stderr, chance, majority, at_chance; documents, split, docs_sha256, rules,
    samples ...), means of the paper's two groups, if complete (value, stderr, chance ...).
    """
    from spikeformers.cli._output import print_json, print_tables, say, start
    from spikeformers.engine import is_engine_file
    from spikeformers.evaluation.zeroshot import check_harness, resolve
    from spikeformers.export import open_engine
    from spikeformers.progress import Progress
    from spikeformers.reporting import write_text
    from spikeformers.reporting.card import add_evaluations
    from spikeformers.reporting.evaluation_tables import task_remarks, task_tables
    from spikeformers.storage import check_folder
    from spikeformers.studies import TaskStudy

    start(verbose=False)
    names = resolve(tasks)
    check_harness()
    engine = engine or is_engine_file(model)
    if out is None and not engine and Path(model).is_dir():
        out = Path(model) / "evaluations"
    if out is not None:
        check_folder(out)

    def keep(name: str, result: dict[str, Any]) -> None:
        if out is not None:
            ending = "" if limit is None else f".limit-{limit}"
            content = json.dumps(result, indent=1, allow_nan=False)
            write_text(out / f"zeroshot-{name}{ending}.json", content + "\n")

    with Progress() as progress:
        study = TaskStudy(
            model, engine=open_engine(model, threads=threads) if engine else None,
            gguf_file=gguf_file, dtype=dtype, device=device, threads=threads,
            batch_size=batch_size if batch_size == "auto" else _number(batch_size),
            max_length=max_length, cached=cached, progress=partial(progress, unit="requests"),
        )  # fmt: skip
        try:
            result = study.run(names, data_dir=data_dir, limit=limit, keep=keep)
        except KeyboardInterrupt:
            stopped = names[len(study.reports)]
            say(f"Stopped in {stopped}; the same command continues from there.")
            raise typer.Exit(130) from None
    if out is not None and not engine:
        add_evaluations(out)
    if as_json:
        print_json(result)
        return
    print_tables(task_tables(model, study.reports, result["means"]))
    for line in task_remarks(study.reports):
        print(line)
    if out is not None:
        say(f"written to {out}")


def _number(text: str) -> int:
    from spikeformers.errors import ConfigError

    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"--batch-size is {text!r}; it must be auto, or a number from 1.")
    return int(text)
