"""Tables of plain strings, for pages, terminals, Markdown and CSV alike."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import NamedTuple


class Table(NamedTuple):
    """Rows as long as ``columns``, and a note to print below them."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def row(title: str, values: Sequence[float], digits: int = 2) -> tuple[str, ...]:
    """A title, and numbers with this many digits after the point."""
    return (title, *(f"{value:,.{digits}f}" for value in values))


def dash(value: float | None, form: str = "{:.4f}") -> str:
    """The value in this format, or a dash for None."""
    return "-" if value is None else form.format(value)


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def as_csv(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same cells, separated by commas."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([columns, *rows])
    return out.getvalue()
