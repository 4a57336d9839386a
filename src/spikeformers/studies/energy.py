"""A model's energy compared with its dense twin's: counted, estimated, and measured here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spikeformers.energy.counting.spike_statistics import density_by_position
from spikeformers.energy.pricing.break_even import curve_of, density_at, most_times
from spikeformers.energy.pricing.estimate import CONTEXTS, FullReport, estimate
from spikeformers.energy.pricing.paper_sum import PAPER, EnergyReport, count_over, report_of
from spikeformers.energy.pricing.price_table import PriceTable, load_table
from spikeformers.energy.pricing.work_items import DENSE, INT8
from spikeformers.errors import SpikeformersError, UsageError
from spikeformers.progress import Tell, watched
from spikeformers.studies.gather import Raster, raster_of_sentence
from spikeformers.studies.model_input import read_input
from spikeformers.studies.on_machine import Pack, measure_folder
from spikeformers.studies.twin import twin_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from spikeformers.evaluation.measured import MeasuredReport
    from spikeformers.studies.model_input import ModelInput

SENTENCE = 32  # tokens of the raster
POINTS = 24  # of the break-even curve
FORMULA = (
    "E = 4.6 pJ x MACs of products without spikes + 0.9 pJ x synaptic operations of the others"
)


@dataclass(frozen=True)
class BreakEvenCurve:
    """Estimated energy over firing density, in nJ per token or image."""

    densities: list[float]
    energies: list[float]
    twins: dict[str, float]
    """Dense formats, which do not depend on the density."""
    measured: tuple[float, float]
    """Density as measured, and the energy there."""


@dataclass
class EnergyStudy:
    """Parts "paper", "full" and, if requested, "measured" of one model."""

    name: str
    paper: EnergyReport
    paper_control: EnergyReport | None
    full: FullReport
    control_weights: str | None
    """"fresh", or the twin's folder; None for a model without a twin."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Its input: data, split, sha256, and context (of text)."""
    measured: MeasuredReport | None = None
    """Both on this machine, if requested."""
    positions: NDArray[Any] | None = None
    """Firing density by position in the window; for text, if spikes were requested."""
    raster: Raster | None = None
    """For text, if spikes were requested."""

    @property
    def unit(self) -> str:
        """What figures refer to: "token" or "image"."""
        return self.paper.unit

    def parts(self) -> dict[str, Any]:
        """Plain values for JSON: paper and full, each with model and control."""
        control = self.paper_control
        paper = {
            "model": self.paper.as_dict(),
            "control": None if control is None else control.as_dict(),
            "formula": FORMULA,
        }
        return {"paper": paper, "full": self.full.as_dict()}

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, as ``spikeformers energy --json`` prints them."""
        measured = self.measured
        on_machine = {} if measured is None else {"control": None, **measured.as_dict()}
        return {
            **self.parts(),
            **({"measured": on_machine} if on_machine else {}),
            "control_weights": self.control_weights,
            **self.facts,
        }

    def break_even_curve(self) -> BreakEvenCurve:
        """The int8 estimate at other densities, in the phase of the comparison.

        UsageError for a dense model, or one without a twin.
        """
        full = self.full
        if full.pair is None or full.control is None:
            raise UsageError(f"{self.name} has no dense twin to break even with.")
        phase, trace, control = full.pair.phase, full.model.trace, full.control
        rising = np.geomspace(1, most_times(trace), POINTS)[1:]
        times = [float(each) for each in (*np.linspace(0, 1, 8), *rising)]
        return BreakEvenCurve(
            [density_at(trace, each) for each in times],
            [pj / 1e3 for pj in curve_of(trace, INT8, phase, full.table, times)],
            {f"dense twin, {p.name}": control.of(p, phase).picojoules / 1e3 for p in DENSE},
            (density_at(trace, 1.0), full.model.of(INT8, phase).picojoules / 1e3),
        )


def measure_energy(
    model: str | Path,
    data: str,
    *,
    split: str = "validation",
    tokens: int = 4096,
    control: str | Path | None = None,
    prices: str | PriceTable = "horowitz45",
    contexts: Sequence[int] = CONTEXTS,
    text_field: str = "text",
    images: int = 64,
    root: str = "",
    spikes: bool = False,
    measure: bool = False,
    pack: Pack | None = None,
    progress: Tell | None = None,
) -> EnergyStudy:
    """Energy per token (vision: per image) of a model folder, compared with its dense twin's.

    Events are counted in a real run over about ``tokens`` tokens, or ``images`` images, of
    ``data``; joules are estimated, by the papers' sum and in full with ``prices`` (horowitz45,
    tpu7, a YAML file, or a table) at ``contexts``. ``control`` is the folder of a dense model;
    without one a new twin is built. ``spikes`` also records density by position and a raster.
    ``measure`` also runs model and twin on this machine, and with ``pack`` (``spikeformers.pack``)
    the engine. ``progress`` receives the stages. Errors as ``read_input``, `twin_of`,
    ``load_table`` and ``energy_of``.
    """
    table = prices if isinstance(prices, PriceTable) else load_table(prices)
    source = read_input(
        model, data, split=split, tokens=tokens, text_field=text_field, images=images, root=root,
        progress=progress,
    )  # fmt: skip
    twin, weights = twin_of(source.model.config, control)
    study = count_and_estimate(
        str(model), source.model, twin, source.batches, table,
        contexts=contexts, control_weights=weights, progress=progress,
    )  # fmt: skip
    study.facts = source.facts
    if spikes:
        add_spikes(study, source, progress)
    if measure:
        study.measured = _on_machine(source, twin, pack, progress)
    return study


def count_and_estimate(
    name: str,
    model: PreTrainedModel,
    control: PreTrainedModel | None,
    batches: Sequence[Any],
    table: PriceTable,
    *,
    contexts: Sequence[int] = CONTEXTS,
    control_weights: str | None = None,
    progress: Tell | None = None,
) -> EnergyStudy:
    """Count both models over ``batches`` and estimate; errors as ``energy_of``."""
    tell = progress or (lambda *_: None)
    model_trace = count_over(model, watched(batches, partial(tell, "counting events")))
    control_trace = control_report = None
    if control is not None:
        move = partial(tell, "counting events of the twin")
        control_trace = count_over(control, watched(batches, move))
        control_report = report_of(control_trace, PAPER, type(control).__name__)
    return EnergyStudy(
        name,
        report_of(model_trace, PAPER, type(model).__name__),
        control_report,
        estimate(model_trace, control_trace, table, causal=model.can_generate(), contexts=contexts),
        control_weights,
    )


def add_spikes(study: EnergyStudy, source: ModelInput, progress: Tell | None = None) -> None:
    """For text, record density by position and the raster of one sentence, for pictures."""
    if source.tokenizer is None or not study.full.spiking:
        return
    if progress is not None:
        progress("drawing spikes", 0, None)
    study.positions = density_by_position(source.model, source.batches)
    sentence = source.batches[0][:1, :SENTENCE]
    raster = raster_of_sentence(source.model, source.tokenizer, sentence)
    study.raster = raster if raster.spikes else None


def _on_machine(
    source: ModelInput, twin: Any, pack: Pack | None, progress: Tell | None
) -> MeasuredReport:
    """Part three: the model, its twin and the engine, run on this machine."""
    move = None if progress is None else partial(progress, "measuring on this machine")
    try:
        return measure_folder(
            source.folder, source.model, twin, source.batches, pack=pack, progress=move
        )
    except SpikeformersError as error:
        raise type(error)(f"{error} measure=False (--no-measure) leaves this part out.") from error
