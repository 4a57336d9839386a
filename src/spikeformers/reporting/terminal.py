"""Tables on a terminal, by Rich."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table as RichTable

    from spikeformers.reporting.tables import Table

UNBOUNDED = 1_000_000  # characters: wider than any table
WIDEST = 100  # characters of a title or note, if nothing else sets a width


def print_tables(tables: Iterable[Table]) -> None:
    """Print each table to standard output, with its note as plain lines below it."""
    for table in tables:
        print_table(make_table(table.title, table.columns, table.rows))
        if table.note:
            print_note(table.note)


def print_note(note: str) -> None:
    """Print lines of text as wide as the terminal, at most `WIDEST`, and an empty line."""
    from rich.console import Console
    from rich.text import Text

    Console(width=_text_width()).print(Text(f"{note}\n", style="dim"))


def print_table(table: RichTable) -> None:
    """Print a table to standard output; cells are wrapped between words, never within.

    It is wider than the terminal if its words need more room, and as wide as its cells in a file.
    Rich would wrap the title to the width of the table, so it is printed on its own.
    """
    from rich.console import Console

    if table.title:
        Console(width=_text_width()).print(table.title, style="bold")
        table.title = None
    Console(width=fit(table, _width() or UNBOUNDED)).print(table)


def _width() -> int | None:
    """Characters per line; None for a file without a stated width."""
    from rich.console import Console

    console = Console()
    return console.width if console.is_terminal or "COLUMNS" in os.environ else None


def _text_width() -> int:
    return min(_width() or WIDEST, WIDEST)


def fit(table: RichTable, width: int) -> int:
    """Set the columns' widths for a table of ``width`` characters; returns the width it needs."""
    from rich.cells import cell_len
    from rich.text import Text

    natural, least = [], []
    for column in table.columns:
        cells = (column.header, *column.cells)
        texts = [
            (cell if isinstance(cell, Text) else Text.from_markup(str(cell))).plain
            for cell in cells
        ]
        natural.append(max(cell_len(line) for text in texts for line in text.split("\n")))
        least.append(max((cell_len(word) for text in texts for word in text.split()), default=0))
    room = width - (3 * len(natural) + 1)  # without the spaces and lines around each column
    widths = list(natural)
    while sum(widths) > room and any(wide > low for wide, low in zip(widths, least, strict=True)):
        spare = [wide if wide > low else -1 for wide, low in zip(widths, least, strict=True)]
        widths[spare.index(max(spare))] -= 1
    for column, set_width in zip(table.columns, widths, strict=True):
        column.width = set_width
    return max(min(width, WIDEST), width - room + sum(widths))


def make_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> RichTable:
    """A table of Rich; columns of numbers are right-aligned."""
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
        table.add_column(Text(column), justify="right" if numbers else "left")
    for row in rows:
        table.add_row(*map(Text, row))
    return table
