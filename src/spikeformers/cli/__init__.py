"""The command line: one file per verb, with its arguments, one call and one print.

    spikeformers demo | tokenize | pretrain | distill | train-vision | convert | finetune-attention
    spikeformers finetune | generate | chat | serve | energy | audit | info | plan | compare
    spikeformers evaluate perplexity | agreement | zeroshot | glue | vision
    spikeformers export engine | bench decode | bench prefill | bench memory

Exit codes: 0 done, 1 something failed or a requirement is not met, 2 the request is wrong, 130
interrupted. Results go to standard output, progress and messages to standard error. Nothing heavy
is imported before a verb runs.
"""

from __future__ import annotations

import errno
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from spikeformers.cli import (
    audit,
    bench,
    chat,
    compare,
    convert,
    demo,
    distill,
    energy,
    evaluate,
    export,
    finetune,
    finetune_attention,
    generate,
    info,
    plan,
    pretrain,
    serve,
    tokenize,
    train_vision,
    zeroshot,
)
from spikeformers.cli._waiting import wait_passively
from spikeformers.errors import SpikeformersError, UsageError

RENAMED = {"max-tokens": "tokens", "max-images": "images"}
"""Former option names and the present ones; the former still work, but are not shown."""

app = typer.Typer(
    name="spikeformers",
    help="Spiking transformers for language: train them, convert trained models, compare them "
    "with a dense twin, generate text.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda name: RENAMED.get(name, name),
    },
    rich_markup_mode="rich",
)
evaluation = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")
benching = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")
app.add_typer(benching, name="bench", help="Time the engine against PyTorch and other programs.")
exporting = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")
app.add_typer(
    exporting, name="export", help="Write a model to a file that another program can run."
)
app.add_typer(
    evaluation, name="evaluate", help="Measure how good a model is, on text, tasks or images."
)


def _help(verb: Callable[..., None]) -> str:
    """A verb's docstring with its paragraphs unwrapped, for any width of terminal.

    Brackets, as of 'spikeformers[eval]', are text and not Rich's markup.
    """
    paragraphs = (inspect.getdoc(verb) or "").replace("[", r"\[").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


for _app, _verb in (
    (app, demo.demo),
    (app, tokenize.tokenize),
    (app, pretrain.pretrain),
    (app, distill.distill),
    (app, train_vision.train_vision),
    (app, convert.convert),
    (app, finetune_attention.finetune_attention),
    (app, finetune.finetune),
    (evaluation, evaluate.perplexity),
    (evaluation, evaluate.agreement),
    (evaluation, zeroshot.zeroshot),
    (evaluation, finetune.glue),
    (app, compare.compare),
    (evaluation, evaluate.vision),
    (app, generate.generate),
    (app, chat.chat),
    (app, serve.serve),
    (app, energy.energy),
    (app, audit.audit),
    (app, info.info),
    (app, plan.plan),
    (exporting, export.engine),
    (exporting, export.nir),
    (benching, bench.decode),
    (benching, bench.prefill),
    (benching, bench.memory),
):
    _app.command(_verb.__name__.replace("_", "-"), help=_help(_verb))(_verb)


def _version(requested: bool) -> None:
    if requested:
        from spikeformers import __version__

        print(f"spikeformers {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the full traceback of an error.")
    ] = False,
) -> None:
    """Options before the verb; `main` reads --debug itself, wherever it stands."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    wait_passively()  # before any verb imports torch
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    if hasattr(sys.stdout, "reconfigure"):  # print a name that is not UTF-8 instead of failing
        sys.stdout.reconfigure(errors="backslashreplace")
    words = [word for word in words if word != "--debug"]
    try:
        _refuse_bytes(words)
        app(words, prog_name="spikeformers")
    except SpikeformersError as error:
        if debug:
            raise
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except OSError as error:
        if debug:
            raise
        _fail(_what_failed(error), 1)


REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "Existing files are unchanged; free some space."),
    **dict.fromkeys(
        (errno.EROFS, errno.EACCES, errno.EPERM),
        "Choose another location, or get write permission for this one.",
    ),
}
"""Advice for errors of the operating system; any other is unexpected, and --debug explains it."""


def _refuse_bytes(arguments: Sequence[str]) -> None:
    """Raise UsageError for an argument that is not UTF-8, which no later code could encode."""
    for argument in arguments:
        try:
            argument.encode("utf-8")
        except UnicodeEncodeError as error:
            shown = repr(os.fsencode(argument))[1:]
            wrong = f"0x{ord(argument[error.start]) - 0xDC00:02x}"
            raise UsageError(
                f"the argument {shown} is not UTF-8 text (the byte {wrong}). Write text and file "
                "names in UTF-8."
            ) from error


def _what_failed(error: OSError) -> str:
    reason = f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}."
    return f"{reason} {REMEDIES.get(error.errno or 0, '--debug shows where.')}"


def _fail(message: str, code: int) -> None:
    """Print one message to standard error and exit."""
    from rich.console import Console

    console = Console(stderr=True, soft_wrap=True)
    console.print("[bold red]error:[/]", end=" ")
    console.print(message, markup=False, highlight=False)
    sys.exit(code)
