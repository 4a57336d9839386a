"""Printing, shared by all verbs: results to standard output, all else to standard error."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from spikeformers.progress import Progress, is_main_process
from spikeformers.reporting.terminal import make_table, print_table, print_tables

if TYPE_CHECKING:
    from spikeformers.data import Corpus, TokenStore
    from spikeformers.runs import RunResult

__all__ = [
    "Terminal",
    "make_table",
    "on_terminal",
    "print_json",
    "print_run",
    "print_table",
    "print_tables",
    "say",
    "start",
    "tokenize",
]


def start(*, verbose: bool = True, transformers: bool = True) -> None:
    """Send bars, warnings and log lines to standard error, and silence those of Transformers.

    ``transformers=False`` is for a verb that does not need the library: it is not imported.
    """
    import rich
    from rich.logging import RichHandler

    rich.reconfigure(stderr=True)
    logger = logging.getLogger("spikeformers")
    logger.setLevel(logging.INFO if verbose else logging.WARNING)
    logger.propagate = False
    logger.handlers = [
        RichHandler(console=rich.get_console(), show_time=False, show_path=False, show_level=False)
    ]
    if transformers:
        from transformers.utils import logging as transformers_logging

        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()


def say(message: str, style: str = "") -> None:
    """Print one line to standard error without markup, since a path may hold brackets.

    ``style`` is a style of Rich.
    """
    import rich

    console = rich.get_console()
    console.print(message, style=style or None, markup=False, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print the result as JSON, alone on standard output."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    # A lone surrogate from a damaged text has no UTF-8 encoding; its escape is valid JSON.
    print(text.encode("utf-8", "backslashreplace").decode("utf-8"))


def tokenize(corpus: Corpus, tokenizer: Any) -> TokenStore:
    """Tokenize a corpus with a progress bar; returns its token store."""
    from spikeformers.data import tokenize_corpus

    with Progress() as progress:
        return tokenize_corpus(
            corpus, tokenizer, progress=progress.stage("reading the text", "bytes")
        )


class Terminal:
    """Shows a run on standard error: its messages, and the progress of each stage.

    A stage ends with the next stage or message; the bar of training stays visible afterwards.
    """

    def __init__(self) -> None:
        self._stage = ""
        self._progress: Progress | None = None

    def __call__(
        self, stage: str, done: int, total: int | None, *, unit: str = "", shown: str = ""
    ) -> None:
        if self._progress is None or stage != self._stage:
            self.close()
            self._stage, self._progress = stage, Progress(keep=stage == "training")
            self._progress.__enter__()
        self._progress(stage, done, total, unit=unit, shown=shown)

    def say(self, message: str) -> None:
        """Print one line below the bar."""
        self.close()
        say(message)

    def close(self) -> None:
        """End the current stage and its bar."""
        progress, self._progress = self._progress, None
        if progress is not None:
            progress.__exit__()


@contextmanager
def on_terminal(*, verbose: bool = True) -> Iterator[dict[str, Any]]:
    """Callbacks for a run of the library that show it on the terminal."""
    start(verbose=verbose and is_main_process())
    terminal = Terminal()
    try:
        yield {"progress": terminal, "on_message": terminal.say}
    finally:
        terminal.close()


def print_run(result: RunResult, *, as_json: bool) -> None:
    """Print how a run ended; exits with code 130 if it was interrupted."""
    if not is_main_process():
        return
    training, unit = result.training, result.unit
    if as_json:
        print_json(result.as_dict())
    elif not result.interrupted:
        speed = f"{training.tokens_per_second:,.0f} {unit}s/s"
        rows = [
            *(
                (title, form.format(training.final_validation[key]))
                for key, (title, form) in _figures(training.final_validation, unit).items()
                if key in training.final_validation
            ),
            (f"{unit}s seen", f"{training.tokens_seen:,}"),
            ("training", f"{training.seconds:,.1f} s, {speed}"),
            ("model", str(result.out)),
        ]
        print_table(make_table("", ("trained", f"{training.steps:,} steps"), rows))
    if result.interrupted:
        resume = f"spikeformers {result.verb} --out {shlex.quote(str(result.out))} --resume"
        say(f"Stopped after step {training.steps}; continue with: {resume}")
        raise typer.Exit(130)


def _figures(validation: Mapping[str, float], unit: str) -> dict[str, tuple[str, str]]:
    """Key of a validation result -> its title and number format."""
    of = "masked token" if "masked_perplexity" in validation else unit
    return {
        "loss": ("validation loss", f"{{:.4f}} nats per {of}"),
        "masked_perplexity": ("masked perplexity", "{:,.2f}"),
        "accuracy": ("accuracy", "{:.4f}"),
        "perplexity": ("perplexity", "{:,.2f} per token"),
        "bits_per_byte": ("bits per byte", "{:.4f}"),
        "teacher_agreement": ("same most likely token as the teacher", "{:.4f} of tokens"),
        "teacher_kl": ("KL from the teacher", "{:.4f} nats per token"),
    }
