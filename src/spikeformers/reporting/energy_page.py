"""The report of ``spikeformers energy``: energy.json, pictures, energy.html."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spikeformers.energy.pricing.break_even import curve_of, density_at, most_times
from spikeformers.energy.pricing.estimate import ASSUMPTIONS
from spikeformers.energy.pricing.paper_sum import RULES
from spikeformers.energy.pricing.precision import DENSE, INT8
from spikeformers.evaluation.measured.tables import notes
from spikeformers.evaluation.measured.tables import tables as measured_tables
from spikeformers.reporting import energy_pictures as drawings
from spikeformers.reporting import pictures
from spikeformers.reporting.energy import FORMULA, Energies, even_table, side_by_side
from spikeformers.reporting.gather import by_point, outside_blocks
from spikeformers.reporting.html import Page, Section, pairs, write_page
from spikeformers.reporting.machine import machine, versions
from spikeformers.storage import write_text

POINTS = 24  # of the break-even curve
SWINGS = 14  # bars of the tornado


def write_energy_report(
    folder: Path, found: Sequence[Energies], parts: Sequence[Mapping[str, Any]]
) -> Path:
    """Write pictures, energy.html, then energy.json; returns the page. Raises StorageError."""
    sections = []
    for number, one in enumerate(found):
        drawn = folder / "energy-pictures" / (str(number + 1) if len(found) > 1 else "")
        sections += _sections(one, drawn, title=one.name if len(found) > 1 else "")
    if len(found) > 1:
        sections.insert(0, Section("Side by side, nJ", "", *side_by_side(found)))
    sections += [
        Section("What the figures take for granted", rows=[(line,) for line in ASSUMPTIONS]),
        Section("Rules of the papers' sum", FORMULA, rows=[(line,) for line in RULES]),
        Section("Counted where", rows=pairs({**machine(), **versions()})),
    ]
    page = folder / "energy.html"
    write_page(page, Page("Energy", _lead(found), sections))
    several = {"models": [{"model": one.name, **p} for one, p in zip(found, parts, strict=True)]}
    content = parts[0] if len(parts) == 1 else several
    write_text(folder / "energy.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return page


def _lead(found: Sequence[Energies]) -> str:
    said = (
        "Every joule on this page is estimated: events were counted in a real run and multiplied "
        "with published prices. Nothing was metered."
    )
    one = found[0]
    pair = one.full.pair
    if len(found) > 1 or pair is None:
        return said
    ratio = pair.ratio(one.full.table)
    return (
        f"{one.name} fires at a density of {one.paper.density:.3f}. With weights in int8 it takes "
        f"{ratio:.3f} of what its dense twin takes in fp16 ({pair.phase.title}), memory included, "
        f"by the prices of {one.full.table.name}. {said}"
    )


def _sections(one: Energies, drawn: Path, title: str) -> list[Section]:
    head = f"{title}: " if title else ""
    sections = [
        _paper(one, drawn, head),
        _full(one, drawn, head),
    ]
    if one.full.break_evens:
        sections += [_break_even(one, drawn, head), _sensitivity(one, drawn, head)]
    if one.full.spiking:
        sections.append(_spikes(one, drawn, head))
    if one.measured is not None:
        sections += [
            Section(f"{head}measured: {table.title}", "", table.columns, table.rows)
            for table in measured_tables(one.measured)
        ]
        sections.append(
            Section(f"{head}how it was measured", rows=[(s,) for s in notes(one.measured)])
        )
    facts = {key: value for key, value in one.facts.items() if value is not None}
    facts |= {f"{one.unit}s counted": f"{one.paper.tokens:,}", "twin": one.control_weights or "-"}
    sections.append(Section(f"{head}what was run", rows=pairs(facts)))
    return sections


def _paper(one: Energies, drawn: Path, head: str) -> Section:
    sides = {"model": one.paper}
    if one.paper_control is not None:
        sides["dense twin"] = one.paper_control
    energies = {
        name: {
            part: share.with_elementwise
            for part, share in side.by_component.items()
            if share.with_elementwise
        }
        for name, side in sides.items()
    }
    picture = drawn / "components.png"
    pictures.energy_by_component(picture, energies)
    rows = [
        ("the papers' sum, nJ", *(f"{s.picojoules_per_token / 1e3:,.2f}" for s in sides.values())),
        (
            "with elementwise work, nJ",
            *(f"{s.with_elementwise_per_token / 1e3:,.2f}" for s in sides.values()),
        ),
        ("multiply-accumulates", *(f"{s.macs_per_token:,.0f}" for s in sides.values())),
        ("synaptic operations", *(f"{s.sop_per_token:,.0f}" for s in sides.values())),
    ]
    return Section(
        f"{head}estimated as the papers do, {one.each}",
        f"{FORMULA}. Memory is not in it.",
        ("", *sides),
        rows,
        pictures=[(picture, "Energy by component, elementwise work included (estimated).")],
    )


def _full(one: Energies, drawn: Path, head: str) -> Section:
    full = one.full
    columns = [("model", full.model)]
    if full.control is not None:
        columns.append(("twin", full.control))
    shown = [
        (f"{name} {precision.name}", side, precision)
        for name, side in columns
        for precision in dict.fromkeys(ledger.precision for ledger in side.ledgers)
    ]
    rows = [
        (phase.title, *(f"{s.of(p, phase).picojoules / 1e3:,.1f}" for _, s, p in shown))
        for phase in full.phases
    ]
    figures = []
    for phase in _pictured(one):
        picture = drawn / f"spent-{phase.name}-{phase.context}.png"
        bars = {
            name: {key: value / 1e3 for key, value in s.of(p, phase).by_part().items()}
            for name, s, p in shown
        }
        drawings.spent_on(picture, bars, f"What energy is spent on: {phase.title}", one.each)
        figures.append((picture, f"By part, {phase.title}, {full.table.name} (estimated)."))
    where = full.model.of(shown[0][2], full.phases[0]).homes()
    places = "; ".join(f"{store} in {', '.join(levels)}" for store, levels in where.items())
    text = (
        f"Operations by type and width, and all that is read and written, at the prices of "
        f"{full.table.name} ({full.table.about}). Columns are nJ {one.each}. "
        f"{_carried(one)}In {full.phases[0].title} the model's {places}."
    )
    return Section(f"{head}estimated in full", text, ("", *(t for t, _, _ in shown)), rows,
                   pictures=figures)  # fmt: skip


def _carried(one: Energies) -> str:
    if one.unit == "image":
        return ""
    return (
        f"Events were counted in windows of {one.full.model.trace.window} tokens; other lengths "
        "are carried over from them. "
    )


def _pictured(one: Energies) -> list[Any]:
    """One phase of each name: that of the comparison, and its sisters at the same context."""
    phases = one.full.phases
    context = one.full.pair.phase.context if one.full.pair else phases[0].context
    return [phase for phase in phases if phase.context == context]


def _break_even(one: Energies, drawn: Path, head: str) -> Section:
    full = one.full
    assert full.pair is not None
    assert full.control is not None
    phase, found = full.pair.phase, full.model.trace
    times = np.concatenate([np.linspace(0, 1, 8), np.geomspace(1, most_times(found), POINTS)[1:]])
    energy = [pj / 1e3 for pj in curve_of(found, INT8, phase, full.table, list(times))]
    densities = [density_at(found, float(f)) for f in times]
    twins = {f"dense twin, {p.name}": full.control.of(p, phase).picojoules / 1e3 for p in DENSE}
    measured = (density_at(found, 1.0), full.model.of(INT8, phase).picojoules / 1e3)
    picture = drawn / "break-even.png"
    drawings.break_even_curve(
        picture, densities, energy, twins, measured,
        f"Energy over density: {phase.title}", one.each,
    )  # fmt: skip
    heads, rows = even_table(full)
    return Section(
        f"{head}break-even",
        "Every neuron layer is made to fire more or less, all alike and at most always, and the "
        "full estimate is made again. Quality is not in this: a model that fires elsewhere is "
        "another model. A cell has the energy over the twin's, and the density below which it is "
        "less than one: always means even if every neuron fired, never not even without a spike.",
        heads,
        rows,
        pictures=[(picture, "Where the curve is below a line, the model takes less (estimated).")],
    )


def _sensitivity(one: Energies, drawn: Path, head: str) -> Section:
    full = one.full
    assert full.pair is not None
    ratio, pair = full.pair.ratio(full.table), full.pair
    picture = drawn / "sensitivity.png"
    title = f"What the ratio hangs on: {pair.phase.title}, {pair.ours.name} / {pair.theirs.name}"
    drawings.tornado(picture, full.swings[:SWINGS], ratio, title)
    rows = [
        (s.name, "-" if s.low is None else f"{s.low:.4f}", f"{s.high:.4f}") for s in full.swings
    ]
    return Section(
        f"{head}sensitivity",
        f"The ratio is {ratio:.4f}. Each price was halved and doubled, and each assumption swapped "
        "for its other reading, one at a time.",
        ("", "halved", "doubled, or assumed so"),
        rows,
        pictures=[(picture, "The longest bars are what the ratio hangs on (estimated).")],
    )


def _spikes(one: Energies, drawn: Path, head: str) -> Section:
    densities = {name: spikes.density for name, spikes in one.paper.neurons.items()}
    layers = drawn / "density.png"
    pictures.density_by_layer(layers, by_point(densities), outside_blocks(densities))
    figures = [(layers, "Firing density of every neuron layer (measured).")]
    if one.positions is not None:
        picture = drawn / "positions.png"
        drawings.density_over_positions(picture, {one.name: one.positions})
        figures.append((picture, "Firing density by position in the window (measured)."))
    if one.raster is not None:
        picture = drawn / "raster.png"
        spikes, tokens, levels = one.raster
        pictures.spike_raster(picture, spikes, tokens, levels)
        figures.append((picture, "Spikes of one block while it reads one sentence (measured)."))
    return Section(f"{head}spikes", pictures=figures)
