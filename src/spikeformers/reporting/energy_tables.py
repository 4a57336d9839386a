"""Tables of a model's energy, for the terminal and for the page alike.

Estimated: by component and in full, break-even, sensitivity, several models side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from spikeformers.energy.pricing.work_items import INT8
from spikeformers.reporting.tables import Table, dash, row

if TYPE_CHECKING:
    from spikeformers.energy import BreakEven, EnergyReport, FullReport, Phase, Precision
    from spikeformers.energy.pricing.estimate import ModelEstimate
    from spikeformers.studies.energy import EnergyStudy

PARTS = {"register": "weights used again", "cache": "keys and values", "state": "membranes"}
"""Readable names of a ledger's parts."""


def paper_tables(study: EnergyStudy) -> list[Table]:
    """Part one: the counted events, and the papers' sum of them."""
    report, control = study.paper, study.paper_control
    sides = [report] if control is None else [report, control]
    names = (study.name, f"dense twin ({study.control_weights})")[: len(sides)]
    columns = (f"nJ per {study.unit}, estimated", *names)
    parts = [
        row(part, [side.by_component[part].with_elementwise / 1000 for side in sides])
        for part in report.by_component
        if any(side.by_component[part].with_elementwise for side in sides)
    ]
    parts += [
        row("sum", [side.with_elementwise_per_token / 1000 for side in sides]),
        row("matrix products alone", [side.picojoules_per_token / 1000 for side in sides]),
    ]
    two_prices = any(side.digit_sop_per_token != side.sop_per_token for side in sides)
    if two_prices:
        digits = [side.digit_picojoules_per_token / 1000 for side in sides]
        parts.append(row("the same, counts as binary digits instead of a rate", digits))
    tables = [
        Table("As the papers estimate: energy by component", columns, parts),
        Table(f"Counted, per {report.unit} (measured)", ("", *names), _counted(sides, two_prices)),
    ]
    if report.neurons:
        layers = [
            (layer, f"{share.with_elementwise / 1000:,.2f}", f"{share.sop:,.0f}")
            for layer, share in report.by_layer.items()
        ]
        heads = ("block", f"nJ per {study.unit}, estimated", "synaptic operations")
        tables.append(Table(f"Energy by block of {study.name}", heads, layers))
    return tables


def _counted(sides: Sequence[EnergyReport], two_prices: bool) -> list[tuple[str, ...]]:
    digits = row("with counts as binary digits", [side.digit_sop_per_token for side in sides], 0)
    return [
        row("dense MACs of the products", [side.macs_per_token for side in sides], 0),
        row("synaptic operations", [side.sop_per_token for side in sides], 0),
        *((digits,) if two_prices else ()),
        row("comparisons for winners", [side.winner_comparisons_per_token for side in sides], 0),
        ("firing density", *(dash(side.density, "{:.3f}") for side in sides)),
    ]


def full_columns(full: FullReport) -> list[tuple[str, ModelEstimate, Precision]]:
    """Title, model and format of each column of the full estimate."""
    sides = [("model", full.model)]
    if full.control is not None:
        sides.append(("twin", full.control))
    return [
        (f"{name} {precision.name}", side, precision)
        for name, side in sides
        for precision in dict.fromkeys(ledger.precision for ledger in side.ledgers)
    ]


def full_tables(study: EnergyStudy) -> list[Table]:
    """Part two: everything, arithmetic and memory, in every phase and format."""
    full = study.full
    columns = full_columns(full)
    heads = (f"nJ per {study.unit}", *(title for title, _, _ in columns))
    rows = [
        (phase.title, *(_short(side.of(p, phase).picojoules / 1000) for _, side, p in columns))
        for phase in full.phases
    ]
    middle = full.phases[0] if full.pair is None else full.pair.phase
    paper = study.paper
    two_prices = paper.digit_sop_per_token != paper.sop_per_token
    code = "; a count is a rate code" if two_prices else ""
    return [
        Table(f"In full, memory included, by {full.table.name} (estimated{code})", heads, rows),
        Table(
            f"At {middle.title}, by what the energy is spent on",
            heads,
            _spent(columns, middle),
        ),
    ]


def _spent(
    columns: Sequence[tuple[str, ModelEstimate, Precision]], phase: Phase
) -> list[tuple[str, ...]]:
    parts = [side.of(precision, phase).by_part() for _, side, precision in columns]
    names = list(dict.fromkeys(name for part in parts for name in part))
    return [
        (PARTS.get(name, name), *(_short(part.get(name, 0) / 1000) for part in parts))
        for name in names
    ]


def twin_tables(study: EnergyStudy, swings: int | None = None) -> list[Table]:
    """Break-even and sensitivity (its ``swings`` largest lines); nothing without a dense twin."""
    full = study.full
    if full.pair is None or not full.break_evens:
        return []
    ratio = full.pair.ratio(full.table)
    rows = [(s.name, dash(s.low, "{:.3f}"), f"{s.high:.3f}") for s in full.swings[:swings]]
    return [
        even_table(full),
        Table(
            f"What the ratio {ratio:.3f} depends on ({full.pair.phase.title}, "
            f"{full.pair.spiking_format.name} / {full.pair.dense_format.name})",
            ("one change at a time", "halved", "doubled, or assumption swapped"),
            rows,
        ),
    ]


def even_table(full: FullReport) -> Table:
    """Ratios and break-even densities, one column per pair of formats."""
    columns = list(
        dict.fromkeys((even.spiking_format, even.dense_format) for even in full.break_evens)
    )
    evens = {
        (even.phase, even.spiking_format, even.dense_format): even for even in full.break_evens
    }
    rows = [
        (phase.title, *(_even(evens[(phase, *column)]) for column in columns))
        for phase in full.phases
    ]
    heads = ("model / twin", *(f"{spiking} / {dense}" for spiking, dense in columns))
    return Table(
        "Energy relative to the twin's, and the density below which it is less", heads, rows
    )


def _even(even: BreakEven) -> str:
    if even.density is not None:
        return f"{even.ratio:.3f}, below {even.density:.3f}"
    return f"{even.ratio:.3f}, {even.verdict}"


def side_by_side(studies: Sequence[EnergyStudy]) -> Table:
    """Several models in nJ, one column each; "-" where a model lacks a phase."""
    densities = [study.paper.density for study in studies]
    rows: list[tuple[str, ...]] = [
        ("density", *(dash(density, "{:.3f}") for density in densities)),
        row("papers' sum", [study.paper.picojoules_per_token / 1e3 for study in studies]),
    ]
    phases = [
        {p.title: study.full.model.of(INT8, p).picojoules / 1e3 for p in study.full.phases}
        for study in studies
    ]
    for title in dict.fromkeys(title for energies in phases for title in energies):
        cells = (dash(energies.get(title), "{:,.0f}") for energies in phases)
        rows.append((f"in full, int8, {title}", *cells))
    return Table("Side by side, nJ, estimated", ("", *(study.name for study in studies)), rows)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:,.2f}"
