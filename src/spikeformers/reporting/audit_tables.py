"""The audit's rows as tables; rows that are the same in every layer share one line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from spikeformers.energy import REQUIREMENTS, SCOPES
from spikeformers.reporting.tables import Table

if TYPE_CHECKING:
    from spikeformers.energy import AuditReport, OperandHistory, Row
    from spikeformers.energy.auditing.audit import Requirement, Scope
    from spikeformers.studies.audit import AuditStudy

NAMED = 6  # most kinds of rows that a message lists
_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")


def audit_tables(report: AuditReport, unfold: bool = False) -> list[Table]:
    """Rows of the blocks, rows outside them, requirements; ``unfold`` lists every row."""
    tables = []
    for title, inside in (("In the blocks", True), ("Outside the blocks", False)):
        rows = [row for row in report.rows if (row.layer is not None) == inside]
        shown = rows if unfold else [row for row in rows if not _is_free(row)]
        hidden = len(rows) - len(shown)
        note = f"and {hidden} multiplications by spikes or powers of two (--all)" if hidden else ""
        if shown:
            tables.append(_rows(title, _lines(shown, unfold), unfold, note))
        elif note and tables:
            tables[-1] = tables[-1]._replace(note=note)
    answers = [
        (requirement, *(_how_many(report, requirement, scope) for scope in SCOPES))
        for requirement in REQUIREMENTS
    ]
    return [*tables, *_populations(report), Table("Requirements", ("", *SCOPES), answers)]


def _populations(report: AuditReport) -> list[Table]:
    """The kinds of neurons of layers with several: near and far with thresholds per token."""
    fired: dict[str, list[int]] = {}
    for name, spikes in report.populations.items():
        total = fired.setdefault(_NUMBER.sub("*", name), [0, 0])
        total[0] += spikes.nonzero
        total[1] += spikes.size
    rows = [
        (name, f"{nonzero:,}", f"{size:,}", f"{nonzero / max(size, 1):.2%}")
        for name, (nonzero, size) in fired.items()
    ]
    heads = ("neurons", "fired", "of", "share")
    return [Table("Layers with several kinds of neurons", heads, rows)] if rows else []


def _rows(title: str, lines: list[tuple[str, ...]], unfold: bool, note: str) -> Table:
    """A table that fits a terminal: the common beginning of all names moves to the title.

    Only the unfolded list has a column for the dispatcher's operation.
    """
    heads = ("where", "what", "operation", "operands", "verdict", "times")
    if unfold:
        return Table(title, heads, lines, note)
    block, star, _ = lines[0][0].partition("*.")
    if star and all(line[0].startswith(block + star) for line in lines):
        title += f": {block}*"
        lines = [(line[0].removeprefix(block + star), *line[1:]) for line in lines]
    return Table(title, heads[:2] + heads[3:], [line[:2] + line[3:] for line in lines], note)


def _is_free(row: Row) -> bool:
    return row.title == "multiplication" and row.verdict == "adder"


def _how_many(report: AuditReport, requirement: Requirement, scope: Scope) -> str:
    if not report.products(scope):
        return "no product there"
    rows = report.failures(requirement, scope=scope)
    return f"{len(rows)} fall short" if rows else "met"


def _lines(rows: Sequence[Row], unfold: bool) -> list[tuple[str, ...]]:
    """One line per kind of operation, shared by all layers, in the order of the forward pass."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        name = row.name if unfold else _NUMBER.sub("*", row.name)
        sign = " / " if row.title == "division" else " x "
        operands = sign.join(_operand(history, row.title) for history in row.operands)
        key = (
            name or "(the model)",
            row.title,
            row.op.removeprefix("aten."),
            operands,
            row.verdict,
        )
        groups.setdefault((*key, str(len(groups))) if unfold else key, []).append(row)
    return [
        (*key[:3], _with_density(key[3], group), key[4], str(len(group)))
        for key, group in groups.items()
    ]


def _operand(history: OperandHistory, title: str) -> str:
    """Kind, and how it was determined; ``{}`` stands for the density of spikes."""
    if history.constant:
        if history.shift and not history.is_spikes:
            return "powers of two"
        name = "weights" if title == "product" else "constants"
        return name if history.kind == "real" else f"{history.in_words} {name}"
    if history.is_shift:
        return "powers of two by value"
    source = " by value" if history.source == "values" else ""
    source += "" if history.unit_per is None else f", unit per {history.unit_per}"
    return f"{history.in_words} {{}}{source}" if history.is_spikes else history.kind


def _with_density(form: str, rows: Sequence[Row]) -> str:
    """Fill in densities, as a range where the layers differ."""
    ranges = []
    for histories in zip(*(row.operands for row in rows), strict=True):
        if histories[0].is_spikes and not histories[0].constant:
            densities = [history.density for history in histories]
            low, high = f"{min(densities):.2f}", f"{max(densities):.2f}"
            ranges.append(low if low == high else f"{low}-{high}")
    return form.format(*ranges)


def what_falls_short(study: AuditStudy) -> str:
    """The requirements that are not met, and the rows that violate them, as a sentence."""
    parts = []
    for requirement, rows in study.short.items():
        if rows:
            strict = study.strict and requirement != "softmax-free"
            parts.append(f"{'strict ' if strict else ''}{requirement}: {_in_words(rows)}")
    place = "blocks" if study.scope == "blocks" else "whole model"
    return f"falls short, in its {place}, of " + "; of ".join(parts)


def _in_words(rows: Sequence[Row]) -> str:
    lines = _lines(rows, unfold=False)
    named = [f"{name} ({title}, {operands}) x{n}" for name, title, _, operands, _, n in lines]
    more = len(named) - NAMED
    return ", ".join(named[:NAMED]) + (f", and {more} more kinds" if more > 0 else "")
