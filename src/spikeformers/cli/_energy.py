"""Tables of ``spikeformers energy``: papers' sum, full estimate, break-even, sensitivity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spikeformers.energy import EnergyReport
    from spikeformers.energy.pricing.ledger import Ledger
    from spikeformers.reporting.energy import Energies

SWINGS = 8  # lines of the sensitivity table


def paper_tables(found: Energies) -> list[Any]:
    """Part one: what was counted, and the papers' sum of it."""
    from spikeformers.cli._output import make_table

    mine, beside = found.paper, found.paper_control
    sides = [mine] if beside is None else [mine, beside]
    each = found.each
    columns = (f"nJ {each}, estimated", *_names(found)[: len(sides)])
    parts = [
        _row(part, [side.by_component[part].with_elementwise / 1000 for side in sides])
        for part in mine.by_component
        if any(side.by_component[part].with_elementwise for side in sides)
    ]
    parts += [
        _row("sum", [side.with_elementwise_per_token / 1000 for side in sides]),
        _row("matrix products alone", [side.picojoules_per_token / 1000 for side in sides]),
    ]
    tables = [
        make_table("As the papers estimate: energy by component", columns, parts),
        make_table(f"Counted, per {mine.unit} (measured)", ("", *columns[1:]), _counted(sides)),
    ]
    if mine.neurons:
        layers = [
            (layer, f"{share.with_elementwise / 1000:,.2f}", f"{share.sop:,.0f}")
            for layer, share in mine.by_layer.items()
        ]
        heads = ("block", f"nJ {each}, estimated", "synaptic operations")
        tables.append(make_table(f"Energy by block of {found.name}", heads, layers))
    return tables


def _counted(sides: Sequence[EnergyReport]) -> list[tuple[str, ...]]:
    return [
        _row("dense MACs of the products", [side.macs_per_token for side in sides], 0),
        _row("synaptic operations", [side.sop_per_token for side in sides], 0),
        _row("comparisons for winners", [side.winner_comparisons_per_token for side in sides], 0),
        ("firing density", *("-" if s.density is None else f"{s.density:.3f}" for s in sides)),
    ]


def full_tables(found: Energies) -> list[Any]:
    """Part two: everything, arithmetic and memory, in every phase and format."""
    from spikeformers.cli._output import make_table

    full = found.full
    sides = [full.model] if full.control is None else [full.model, full.control]
    formats = [list(dict.fromkeys(one.precision for one in side.ledgers)) for side in sides]
    short = ("model", "twin")
    columns = [
        (side, precision, f"{short[place]} {precision.name}")
        for place, side in enumerate(sides)
        for precision in formats[place]
    ]
    heads = (f"nJ {found.each}", *(title for _, _, title in columns))
    rows = [
        (phase.title, *(_short(side.of(p, phase).picojoules / 1000) for side, p, _ in columns))
        for phase in full.phases
    ]
    title = f"In full, memory included, by {full.table.name} (estimated)"
    tables = [make_table(title, heads, rows)]
    middle = full.phases[0] if full.pair is None else full.pair.phase
    shown = [side.of(p, middle) for side, p, _ in columns]
    tables.append(
        make_table(f"The same at {middle.title}, by what it is spent on", heads, _parts(shown))
    )
    if full.break_evens:
        tables += _comparisons(found)
    return tables


def _parts(shown: Sequence[Ledger]) -> list[tuple[str, ...]]:
    parts = [ledger.by_part() for ledger in shown]
    names = list(dict.fromkeys(name for part in parts for name in part))
    return [
        (_WORDS.get(name, name), *(_short(part.get(name, 0) / 1000) for part in parts))
        for name in names
    ]


_WORDS = {"register": "weights used again", "cache": "keys and values", "state": "membranes"}


def _comparisons(found: Energies) -> list[Any]:
    from spikeformers.cli._output import make_table
    from spikeformers.reporting.energy import even_table

    full = found.full
    heads, rows = even_table(full)
    tables = [make_table("Energy over the twin's, and up to which density it is less", heads, rows)]
    assert full.pair is not None
    ratio = full.pair.ratio(full.table)
    swings = [
        (one.name, "-" if one.low is None else f"{one.low:.3f}", f"{one.high:.3f}")
        for one in full.swings[:SWINGS]
    ]
    title = (
        f"What the ratio {ratio:.3f} hangs on ({full.pair.phase.title}, "
        f"{full.pair.ours.name} / {full.pair.theirs.name})"
    )
    tables.append(make_table(title, ("one thing changed", "halved", "doubled, or so"), swings))
    return tables


def measured_tables(found: Energies) -> list[Any]:
    """Part three, where it was asked for; its notes stand under the last table."""
    from spikeformers.cli._output import make_table
    from spikeformers.evaluation.measured.tables import notes, tables

    if found.measured is None:
        return []
    shown = [make_table(one.title, one.columns, one.rows) for one in tables(found.measured)]
    shown[-1].caption = "; ".join(notes(found.measured))
    return shown


def _names(found: Energies) -> tuple[str, str]:
    return found.name, f"dense twin ({found.control_weights})"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:,.2f}"


def _row(title: str, values: Sequence[float], digits: int = 2) -> tuple[str, ...]:
    return (title, *(f"{value:,.{digits}f}" for value in values))
