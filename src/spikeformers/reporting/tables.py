"""Tables of plain strings, which a page, a terminal, Markdown and CSV all show."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import NamedTuple


class Table(NamedTuple):
    """Rows as long as ``columns``, and what stands under them."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def row(title: str, values: Sequence[float], digits: int = 2) -> tuple[str, ...]:
    """A title and numbers with so many digits."""
    return (title, *(f"{value:,.{digits}f}" for value in values))


def dash(value: float | None, form: str = "{:.4f}") -> str:
    """The value in this form, or a dash where there is none."""
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
