"""What every verb prints with: results on standard output, the rest on standard error."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from spikeformers.data import Corpus, TokenStore


def is_main_process() -> bool:
    """Whether this process speaks: it is alone, or torchrun's first."""
    return os.environ.get("RANK", "0") == "0"


def start(*, verbose: bool = True, transformers: bool = True) -> None:
    """Bars, warnings and log lines to standard error; libraries keep their own to themselves.

    ``transformers`` false: the verb does without it, and its import is saved.
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
    """One line to standard error, as it is: a path may hold brackets. ``style`` is Rich's."""
    import rich

    console = rich.get_console()
    console.print(message, style=style or None, markup=False, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """The result as JSON, alone on standard output."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    # Half a character, which a damaged text may hold, has no UTF-8; its escape is JSON, too.
    print(text.encode("utf-8", "backslashreplace").decode("utf-8"))


def print_table(table: Table) -> None:
    """The result as a table on standard output."""
    from rich.console import Console

    Console().print(table)


def make_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table; a column of numbers stands to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    # Text, not markup: a name or a path may hold brackets.
    table = Table(
        title=Text(title) if title else None,
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
    )
    for place, column in enumerate(columns):
        numbers = all(row[place][:1].isdigit() or row[place] == "-" for row in rows)
        table.add_column(Text(column), justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


@contextmanager
def reading_bar(what: str) -> Iterator[Callable[[int, int | None], None]]:
    """A bar over bytes of text for `tokenize_corpus`; it shows only when there is work."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    with Progress(
        TextColumn(what),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        transient=True,
        disable=not is_main_process(),
    ) as progress:
        tasks: list[Any] = []

        def move(done: int, total: int | None) -> None:
            if not tasks:
                tasks.append(progress.add_task("", total=total))
            progress.update(tasks[0], completed=done, total=total)

        yield move


@contextmanager
def counting_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar over things done of things in all; it is gone at the end."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    with Progress(TextColumn(what), BarColumn(), MofNCompleteColumn(), transient=True) as progress:
        task = progress.add_task("")

        def move(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        yield move


def tokenize(corpus: Corpus, tokenizer: Any) -> TokenStore:
    """The token store of a corpus, with a bar while it is made."""
    from spikeformers.data import tokenize_corpus

    with reading_bar("reading the text") as move:
        return tokenize_corpus(corpus, tokenizer, progress=move)
