"""Tables on a terminal, by Rich."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table as RichTable

    from spikeformers.reporting.tables import Table

UNBOUNDED = 1_000_000  # characters: wider than any table
WIDEST = 100  # characters of a title or caption where nothing else says how wide


def print_tables(tables: Iterable[Table]) -> None:
    """Each table on standard output, its note under it."""
    for table in tables:
        shown = make_table(table.title, table.columns, table.rows)
        shown.caption = table.note or None
        print_table(shown)


def print_table(table: RichTable) -> None:
    """The result as a table on standard output; cells are wrapped between words, never within.

    Where the words need more than the terminal has, or nobody has said how wide a file is, the
    table is wider.
    """
    from rich.console import Console

    console = Console()
    known = console.is_terminal or "COLUMNS" in os.environ
    Console(width=fit(table, console.width if known else UNBOUNDED)).print(table)


def fit(table: RichTable, width: int) -> int:
    """Set the widths of the columns for ``width`` characters; how many the table takes at least."""
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
    room = width - (3 * len(natural) + 1)  # a space at both sides, and lines around, of each
    widths = list(natural)
    while sum(widths) > room and any(wide > low for wide, low in zip(widths, least, strict=True)):
        spare = [wide if wide > low else -1 for wide, low in zip(widths, least, strict=True)]
        widths[spare.index(max(spare))] -= 1
    for column, set_width in zip(table.columns, widths, strict=True):
        column.width = set_width
    return max(min(width, WIDEST), width - room + sum(widths))


def make_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> RichTable:
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
        table.add_column(Text(column), justify="right" if numbers else "left")
    for row in rows:
        table.add_row(*map(Text, row))
    return table
