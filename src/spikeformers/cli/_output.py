"""What every verb prints with: results on standard output, the rest on standard error."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
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


def say(message: str) -> None:
    """One line to standard error; Rich markup."""
    import rich

    rich.get_console().print(message, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """The result as JSON, alone on standard output."""
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def print_table(table: Table) -> None:
    """The result as a table on standard output."""
    from rich.console import Console

    Console().print(table)


def make_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table; a column of numbers stands to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for place, column in enumerate(columns):
        numbers = all(row[place][:1].isdigit() or row[place] == "-" for row in rows)
        table.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def tokenize(corpus: Corpus, tokenizer: Any) -> TokenStore:
    """The token store of a corpus; while it is made, how far it is."""
    from spikeformers.data import tokenize_corpus
    from spikeformers.progress import Progress

    with Progress() as progress:
        return tokenize_corpus(
            corpus, tokenizer, progress=progress.stage("reading the text", "bytes")
        )
