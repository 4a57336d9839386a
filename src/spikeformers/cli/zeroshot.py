"""``spikeformers evaluate zeroshot``: multiple choice without training, with its controls."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spikeformers.cli._options import Json, Threads

if TYPE_CHECKING:
    from spikeformers.evaluation.zeroshot import TaskReport


def zeroshot(
    model: Annotated[
        str,
        typer.Argument(help="Model folder, a name on the hub, or engine file.", metavar="MODEL"),
    ],
    tasks: Annotated[
        str, typer.Option(help="paper, or names of tasks, separated by commas.", metavar="NAMES")
    ] = "paper",
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Folder with the sets; nothing is fetched then.", show_default="the hub"),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Documents a task.", show_default="all")
    ] = None,
    batch_size: Annotated[
        str, typer.Option(help="Inputs at once, or auto: as many as a budget of tokens holds.")
    ] = "auto",
    max_length: Annotated[
        int | None,
        typer.Option(min=2, help="Tokens of an input.", show_default="the model's positions"),
    ] = None,
    cached: Annotated[
        bool,
        typer.Option(
            "--cached",
            help="Run a context once, its options from the key-value cache: for long contexts.",
        ),
    ] = False,
    gguf_file: Annotated[str, typer.Option(help="GGUF file in the folder.")] = "",
    dtype: Annotated[
        str, typer.Option(help="auto (the weights' own), fp32, bf16 or fp16.")
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    engine: Annotated[
        bool,
        typer.Option(
            "--engine", help="Score by the event-driven engine; an engine file always is."
        ),
    ] = False,
    threads: Threads = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for zeroshot-TASK.json.", show_default="evaluations in a model folder"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Zero-shot accuracy by log-likelihood, beside chance, majority and standard errors.

    paper stands for arc_easy, arc_challenge, boolq, headqa_en, openbookqa, hellaswag, piqa and
    winogrande. Others: lambada_openai, sciq, blimp, wsc, wsc273, copa, social_iqa, truthfulqa
    (mc1 and mc2). The definitions are lm-evaluation-harness's own (pip install
    'spikeformers[eval]'); --data-dir changes where rows come from and nothing else. A score
    within two standard errors of chance is marked: it cannot be told from guessing. After Ctrl-C
    the same command continues: what was computed is kept. A model folder's card, README.md, gets
    the scores of whole tasks. --engine reads one text at a time on the CPU (in fp32 from a model
    folder; int8 is what an engine file holds) and writes only where --out says.

    JSON: model (name, weights_sha256, config ...), settings, versions, commit, tasks (by name:
    metrics with value, stderr, chance, majority, at_chance; documents, split, docs_sha256, rules,
    samples ...), means of the paper's two groups, where whole (value, stderr, chance ...).
    """
    from spikeformers.cli._output import print_json, print_table, say, start
    from spikeformers.engine import is_engine_file
    from spikeformers.evaluation.zeroshot import Zeroshot, check_harness, resolve
    from spikeformers.progress import Progress
    from spikeformers.reporting import write_text
    from spikeformers.storage import check_folder

    start(verbose=False)
    names = resolve(tasks)
    check_harness()
    engine = engine or is_engine_file(model)
    if out is None and not engine and Path(model).is_dir():
        out = Path(model) / "evaluations"
    if out is not None:
        check_folder(out)
    if engine:
        given = {"--gguf-file": gguf_file, "--device": device, "--dtype": dtype}
        loaded, tokenizer = _open_engine(model, threads, given)
    else:
        loaded, tokenizer = _open(model, threads, device, gguf_file, dtype)
    reports: list[TaskReport] = []
    with Progress() as progress:
        runner = Zeroshot(
            " ".join(part for part in (model, gguf_file) if part),
            loaded,
            tokenizer,
            batch_size=batch_size if batch_size == "auto" else _number(batch_size),
            max_length=max_length,
            cached=cached,
            progress=partial(progress, unit="requests"),
        )
        try:
            for name in names:
                reports.append(runner.run(name, data_dir=data_dir, limit=limit))
                if out is not None:
                    one = json.dumps(runner.result(reports[-1:]), indent=1, allow_nan=False)
                    ending = "" if limit is None else f".limit-{limit}"
                    write_text(out / f"zeroshot-{name}{ending}.json", one + "\n")
        except KeyboardInterrupt:
            say(f"Stopped in {names[len(reports)]}; the same command continues from there.")
            raise typer.Exit(130) from None
    result = runner.result(reports)
    if out is not None and not engine:
        _update_card(out)
    if as_json:
        print_json(result)
        return
    for table in _tables(model, reports, result["means"]):
        print_table(table)
    for line in _remarks(reports):
        print(line)
    if out is not None:
        say(f"written to {out}")


def _open(
    model: str, threads: int | None, device: str, gguf_file: str, dtype: str
) -> tuple[Any, Any]:
    """A PyTorch model on its device, and its tokenizer."""
    from spikeformers.models import load_reference
    from spikeformers.training.distributed import choose_device

    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    loaded, tokenizer = load_reference(model, gguf_file=gguf_file, dtype=dtype)
    loaded.to(choose_device(device, 0))
    return loaded, tokenizer


def _open_engine(model: str, threads: int | None, given: dict[str, str]) -> tuple[Any, Any]:
    """A reader of texts by the engine, and its tokenizer."""
    from spikeformers.cli._engine import open_engine
    from spikeformers.cli._engine_reader import EngineReader, tokenizer_of
    from spikeformers.errors import UsageError

    fits = {"--gguf-file": ("",), "--device": ("auto", "cpu"), "--dtype": ("auto", "fp32")}
    for option, value in given.items():
        if value not in fits[option]:
            raise UsageError(
                f"the engine runs a spiking model on the CPU, in fp32 or as its file has it; "
                f"{option} {value} is not for it."
            )
    opened = open_engine(Path(model), threads)
    return EngineReader(opened), tokenizer_of(opened)


def _update_card(out: Path) -> None:
    """The model's README.md with all whole evaluations; nothing where there is no card."""
    from spikeformers.foreign import read_text
    from spikeformers.reporting import add_zeroshot, write_text
    from spikeformers.reporting.results import read_zeroshot

    card = out.parent / "README.md"
    if out.name != "evaluations" or not card.is_file():
        return
    found: dict[str, Any] = {}
    for file in sorted(out.glob("zeroshot-*.json")):
        tasks = read_zeroshot(file, for_card=True)
        found |= {name: told for name, told in tasks.items() if told["limit"] is None}
    if found:
        write_text(card, add_zeroshot(read_text(card), found))


def _number(text: str) -> int:
    from spikeformers.errors import ConfigError

    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"--batch-size is {text!r}; it must be auto, or a number from 1.")
    return int(text)


def _tables(model: str, reports: list[TaskReport], means: dict[str, Any]) -> list[Any]:
    from spikeformers.cli._output import make_table

    limit = reports[0].limit
    title = model if limit is None else f"{model}, the first {limit:,} documents of each task"
    shown = [
        (title, "task", {report.task: report.metrics for report in reports}),
        ("Means; acc where there is no acc_norm", "group", means),
    ]
    return [
        make_table(
            title,
            (kind, "metric", "score ± stderr", "chance", "majority", ""),
            [
                (name, key, *_score(one))
                for name, told in found.items()
                for key, one in told.items()
            ],
        )
        for title, kind, found in shown
        if found
    ]


def _score(found: dict[str, Any]) -> tuple[str, ...]:
    value = "-" if found["value"] is None else f"{found['value']:.4f}"
    return (
        f"{value} ± {found['stderr']:.4f}",
        *(_share(found.get(key)) for key in ("chance", "majority")),
        "at chance" if found.get("at_chance") else "",
    )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _remarks(reports: list[TaskReport]) -> list[str]:
    """What a reader of the numbers has to know: another split, inputs that did not fit."""
    told = {
        "truncated": "inputs cut at the left to fit",
        "split": "options longer than the context, scored in windows",
        "merged": "options joined with their context by the tokenizer",
        "unaligned": "options encoded by themselves",
    }
    lines = []
    for report in reports:
        if report.split != report.official_split:
            lines.append(
                f"{report.task}: the {report.split} split; the definition scores "
                f"{report.official_split}, which the folder does not have."
            )
        said = [f"{count:,} {told[rule]}" for rule, count in report.rules.items()]
        if said:
            lines.append(f"{report.task}: of {report.requests:,} requests {'; '.join(said)}.")
    return lines
