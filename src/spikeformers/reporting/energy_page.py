"""The report of ``spikeformers energy``: pictures, energy.html and energy.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikeformers.energy.pricing.estimate import ASSUMPTIONS
from spikeformers.energy.pricing.paper_sum import RULES
from spikeformers.reporting import energy_pictures as drawings
from spikeformers.reporting import pictures
from spikeformers.reporting.energy_tables import (
    full_columns,
    full_tables,
    paper_tables,
    side_by_side,
    twin_tables,
)
from spikeformers.reporting.engine_section import engine_section
from spikeformers.reporting.html import Page, Section, pairs, write_page
from spikeformers.reporting.measured_tables import notes, tables
from spikeformers.storage import write_text
from spikeformers.studies.energy import FORMULA
from spikeformers.studies.gather import by_point, outside_blocks
from spikeformers.studies.machine import machine, versions

if TYPE_CHECKING:
    from spikeformers.energy import Phase
    from spikeformers.studies.energy import EnergyStudy

SWINGS = 14  # bars of the tornado


def as_json(studies: Sequence[EnergyStudy]) -> dict[str, Any]:
    """Plain values of one study, or of several under "models", each with its folder as "model"."""
    if len(studies) == 1:
        return studies[0].as_dict()
    return {"models": [{"model": study.name, **study.as_dict()} for study in studies]}


def write_energy_report(folder: Path, studies: Sequence[EnergyStudy]) -> Path:
    """Write pictures, energy.html, then energy.json; returns the page. Raises StorageError."""
    sections = []
    for number, study in enumerate(studies):
        drawn = folder / "energy-pictures" / (str(number + 1) if len(studies) > 1 else "")
        sections += _sections(study, drawn, title=study.name if len(studies) > 1 else "")
    engine = engine_section(Path(study.name) for study in studies)
    if len(studies) > 1:
        sections.insert(0, Section.of(side_by_side(studies)))
    sections += [
        Section("Assumptions of the full estimate", rows=[(line,) for line in ASSUMPTIONS]),
        Section("Rules of the papers' sum", FORMULA, rows=[(line,) for line in RULES]),
        *([engine] if engine else []),
        Section("Machine and versions", rows=pairs({**machine(), **versions()})),
    ]
    page = folder / "energy.html"
    write_page(page, Page("Energy", _lead(studies), sections))
    content = json.dumps(as_json(studies), indent=2, ensure_ascii=False)
    write_text(folder / "energy.json", content + "\n")
    return page


def _lead(studies: Sequence[EnergyStudy]) -> str:
    general = (
        "Every joule on this page is estimated: events were counted in a real run and multiplied "
        "by published prices. Nothing was metered."
    )
    first = studies[0]
    pair = first.full.pair
    if len(studies) > 1 or pair is None:
        return general
    ratio = pair.ratio(first.full.table)
    return (
        f"{first.name} fires at a density of {first.paper.density:.3f}. With weights in int8 it "
        f"takes {ratio:.3f} of the energy of its dense twin in fp16 ({pair.phase.title}), memory "
        f"included, at the prices of {first.full.table.name}. {general}"
    )


def _sections(study: EnergyStudy, drawn: Path, title: str) -> list[Section]:
    head = f"{title}: " if title else ""
    sections = [*_paper(study, drawn, head), *_full(study, drawn, head)]
    sections += _beside_the_twin(study, drawn, head)
    if study.full.spiking:
        sections.append(_spikes(study, drawn, head))
    if study.measured is not None:
        sections += [Section.of(each, head=f"{head}Measured: ") for each in tables(study.measured)]
        lines = [(line,) for line in notes(study.measured)]
        sections.append(Section(f"{head}How it was measured", rows=lines))
    facts = {key: value for key, value in study.facts.items() if value is not None}
    facts |= {
        f"{study.unit}s counted": f"{study.paper.tokens:,}",
        "twin": study.control_weights or "-",
    }
    sections.append(Section(f"{head}What was run", rows=pairs(facts)))
    return sections


def _paper(study: EnergyStudy, drawn: Path, head: str) -> list[Section]:
    sides = {"model": study.paper}
    if study.paper_control is not None:
        sides["dense twin"] = study.paper_control
    energies = {
        name: {
            part: share.with_elementwise
            for part, share in side.by_component.items()
            if share.with_elementwise
        }
        for name, side in sides.items()
    }
    picture = drawn / "components.png"
    pictures.energy_by_component(picture, energies, study.unit)
    first, *others = paper_tables(study)
    caption = "Energy by component, elementwise work included (estimated)."
    text = f"{FORMULA}. Memory traffic is not included."
    return [
        Section.of(first, text, head=head, pictures=[(picture, caption)]),
        *(Section.of(table, head=head) for table in others),
    ]


def _full(study: EnergyStudy, drawn: Path, head: str) -> list[Section]:
    full = study.full
    columns = full_columns(full)
    figures = []
    for phase in _pictured(study):
        picture = drawn / f"spent-{phase.name}-{phase.context}.png"
        bars = {
            name: {key: value / 1e3 for key, value in side.of(p, phase).by_part().items()}
            for name, side, p in columns
        }
        drawings.spent_on(picture, bars, f"What energy is spent on: {phase.title}", study.unit)
        figures.append((picture, f"By part, {phase.title}, {full.table.name} (estimated)."))
    where = full.model.of(columns[0][2], full.phases[0]).homes()
    places = "; ".join(f"{store} in {', '.join(levels)}" for store, levels in where.items())
    text = (
        f"All operations by type and width, and all memory traffic, at the prices of "
        f"{full.table.name} ({full.table.about}). Figures are in nJ per {study.unit}. "
        f"{_carried(study)}In {full.phases[0].title}, the model keeps its {places}."
    )
    total_table, spent_table = full_tables(study)
    return [
        Section.of(total_table, text, head=head),
        Section.of(spent_table, head=head, pictures=figures),
    ]


def _carried(study: EnergyStudy) -> str:
    if study.unit == "image":
        return ""
    return (
        f"Events were counted in windows of {study.full.model.trace.window} tokens; other lengths "
        "are extrapolated from them. "
    )


def _pictured(study: EnergyStudy) -> list[Phase]:
    """The phases at the context length of the comparison, such as decode and prefill."""
    phases = study.full.phases
    context = study.full.pair.phase.context if study.full.pair else phases[0].context
    return [phase for phase in phases if phase.context == context]


def _beside_the_twin(study: EnergyStudy, drawn: Path, head: str) -> list[Section]:
    full = study.full
    if full.pair is None or not full.break_evens:
        return []
    pair, ratio, curve = full.pair, full.pair.ratio(full.table), study.break_even_curve()
    curve_file, tornado_file = drawn / "break-even.png", drawn / "sensitivity.png"
    drawings.break_even_curve(
        curve_file, curve.densities, curve.energies, curve.twins, curve.measured,
        f"Energy over density: {pair.phase.title}", study.unit,
    )  # fmt: skip
    formats = f"{pair.spiking_format.name} / {pair.dense_format.name}"
    title = f"What the ratio depends on: {pair.phase.title}, {formats}"
    drawings.tornado(tornado_file, full.swings[:SWINGS], ratio, title)
    captions = (
        "Where the curve is below a line, the model takes less (estimated).",
        "The longest bars are what the ratio depends on most (estimated).",
    )
    even_rows, swing_rows = twin_tables(study)
    return [
        Section.of(even_rows, BREAK_EVEN, head=head, pictures=[(curve_file, captions[0])]),
        Section.of(swing_rows, SENSITIVITY, head=head, pictures=[(tornado_file, captions[1])]),
    ]


BREAK_EVEN = (
    "The firing rates of all neuron layers are scaled by one factor, up to a density of 1, and the "
    "full estimate is repeated. Quality is not considered: a model with other spikes is another "
    "model. A cell has the energy relative to the twin's, and the density below which it is less "
    "than one: always means even if every neuron fired, never means not even without a spike."
)
SENSITIVITY = (
    "Each price was halved and doubled, and each assumption swapped for its other reading, one at "
    "a time."
)


def _spikes(study: EnergyStudy, drawn: Path, head: str) -> Section:
    densities = {name: spikes.density for name, spikes in study.paper.neurons.items()}
    layers = drawn / "density.png"
    pictures.density_by_layer(layers, by_point(densities), outside_blocks(densities))
    figures = [(layers, "Firing density of every neuron layer (measured).")]
    if study.positions is not None:
        picture = drawn / "positions.png"
        drawings.density_over_positions(picture, {study.name: study.positions})
        figures.append((picture, "Firing density by position in the window (measured)."))
    if study.raster is not None:
        picture = drawn / "raster.png"
        raster = study.raster
        pictures.spike_raster(picture, raster.spikes, raster.tokens, raster.levels)
        figures.append((picture, "Spikes of one block while it reads one sentence (measured)."))
    return Section(f"{head}Spikes", pictures=figures)
