"""One model's energy, counted and estimated, beside its dense twin's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray

from spikeformers.energy.counting.spike_statistics import density_by_position
from spikeformers.energy.pricing.break_even import BreakEven
from spikeformers.energy.pricing.estimate import CONTEXTS, FullReport, estimate
from spikeformers.energy.pricing.paper_sum import EnergyReport, count_over, report_of
from spikeformers.energy.pricing.precision import INT8
from spikeformers.energy.pricing.price_table import PriceTable
from spikeformers.energy.pricing.prices import PAPER
from spikeformers.progress import Tell, watched
from spikeformers.reporting.gather import rasters, spelled

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from spikeformers.evaluation.measured import MeasuredReport

SENTENCE = 32  # tokens of the raster
FORMULA = (
    "E = 4.6 pJ x MACs of products without spikes + 0.9 pJ x synaptic operations of the others"
)


@dataclass
class Energies:
    """Parts "paper" and "full" of one model."""

    name: str
    paper: EnergyReport
    paper_control: EnergyReport | None
    full: FullReport
    control_weights: str | None
    """"fresh", or whose; None for a model without a twin."""
    facts: dict[str, Any] = field(default_factory=dict)
    measured: MeasuredReport | None = None
    """Both on this machine, where that was asked for."""
    positions: NDArray[Any] | None = None
    """Firing density by position in the window; of text."""
    raster: tuple[dict[str, NDArray[Any]], list[str], int] | None = None
    """Spikes of one block on one sentence, its tokens, the largest count; of text."""

    @property
    def unit(self) -> str:
        """What figures are per: "token" or "image"."""
        return self.paper.unit

    @property
    def each(self) -> str:
        """The same with its article."""
        return f"{'an' if self.unit == 'image' else 'a'} {self.unit}"

    def parts(self) -> dict[str, Any]:
        """Plain values for JSON: paper and full, each with model and control."""
        beside = self.paper_control
        paper = {
            "model": self.paper.as_dict(),
            "control": None if beside is None else beside.as_dict(),
            "formula": FORMULA,
        }
        return {"paper": paper, "full": self.full.as_dict()}


def energies(
    name: str,
    model: PreTrainedModel,
    control: PreTrainedModel | None,
    batches: Sequence[Any],
    table: PriceTable,
    *,
    contexts: Sequence[int] = CONTEXTS,
    control_weights: str | None = None,
    progress: Tell | None = None,
) -> Energies:
    """Count both over ``batches`` and estimate; errors as ``energy_of``."""
    tell = progress or (lambda *_: None)
    mine = count_over(model, watched(batches, lambda *moved: tell("counting events", *moved)))
    theirs = None
    if control is not None:
        seen = watched(batches, lambda *moved: tell("counting events of the twin", *moved))
        theirs = count_over(control, seen)
    beside = None
    if theirs is not None:
        beside = report_of(theirs, PAPER, type(control).__name__)
    return Energies(
        name,
        report_of(mine, PAPER, type(model).__name__),
        beside,
        estimate(mine, theirs, table, causal=model.can_generate(), contexts=contexts),
        control_weights,
    )


def add_spikes(
    found: Energies,
    model: PreTrainedModel,
    batches: Sequence[torch.Tensor],
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Measure what the pictures of spikes show: density by position, and one sentence's raster."""
    if not found.full.spiking:
        return
    found.positions = density_by_position(model, batches)
    ids = batches[0][:1, :SENTENCE]
    block = math.ceil(model.config.num_hidden_layers / 2) - 1
    spikes, levels = rasters(model, ids, block)
    if spikes:
        found.raster = (spikes, spelled(tokenizer, ids[0].tolist()), levels)


def side_by_side(found: Sequence[Energies]) -> tuple[list[str], list[tuple[str, ...]]]:
    """Heads and rows of a table of several models in nJ, a column each; "-" where one lacks it."""
    densities = [one.paper.density for one in found]
    rows: list[tuple[str, ...]] = [
        ("density", *("-" if d is None else f"{d:.3f}" for d in densities)),
        ("papers' sum", *(f"{one.paper.picojoules_per_token / 1e3:,.2f}" for one in found)),
    ]
    known = [
        {p.title: one.full.model.of(INT8, p).picojoules / 1e3 for p in one.full.phases}
        for one in found
    ]
    for title in dict.fromkeys(title for one in known for title in one):
        cells = (f"{one[title]:,.0f}" if title in one else "-" for one in known)
        rows.append((f"in full, int8, {title}", *cells))
    return ["", *(one.name for one in found)], rows


def even_table(full: FullReport) -> tuple[list[str], list[tuple[str, ...]]]:
    """Heads and rows of ratios and break-even densities, a column a pair of formats."""
    columns = list(dict.fromkeys((one.ours, one.against) for one in full.break_evens))
    found = {(one.phase, one.ours, one.against): one for one in full.break_evens}
    rows = [
        (phase.title, *(_even(found[(phase, *column)]) for column in columns))
        for phase in full.phases
    ]
    return ["model / twin", *(f"{ours} / {against}" for ours, against in columns)], rows


def _even(one: BreakEven) -> str:
    if one.density is not None:
        return f"{one.ratio:.3f}, below {one.density:.3f}"
    return f"{one.ratio:.3f}, {one.verdict}"
