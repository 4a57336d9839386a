"""The density at which a spiking model stops costing less than a dense one.

Every neuron layer is assumed to fire ``f`` times as much as measured, up to a density of 1, and the
full estimate is repeated. The break-even is the ``f`` at which it equals the dense twin's, which
does not depend on spikes. Energy never falls as ``f`` grows, so the answer is one number, "always"
or "never".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from spikeformers.energy.counting.trace import Trace
from spikeformers.energy.pricing.ledger import ledger_of
from spikeformers.energy.pricing.price_table import PriceTable
from spikeformers.energy.pricing.work_items import Phase, Precision, limited

Verdict = Literal["below", "always", "never"]
_HALVINGS = 40


@dataclass(frozen=True)
class BreakEven:
    """The density up to which a spiking model takes less energy than a dense one; estimated."""

    phase: Phase
    spiking_format: str
    """Format of the spiking model."""
    dense_format: str
    """Format of the dense one."""
    ratio: float
    """Energy of the spiking model over the dense one's, as measured."""
    verdict: Verdict
    """"below" a density, "always" (even if every neuron fires), "never" (even without spikes)."""
    density: float | None
    times: float | None
    """Of the measured events."""

    @property
    def text(self) -> str:
        """In words."""
        if self.verdict == "always":
            return "always less, even if every neuron fired"
        if self.verdict == "never":
            return "never less, even without a single spike"
        assert self.density is not None
        assert self.times is not None
        return f"less below a density of {self.density:.3g} ({self.times:.3g} times the measured)"

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "phase": self.phase.name,
            "context": self.phase.context,
            "model": self.spiking_format,
            "control": self.dense_format,
            "ratio": self.ratio,
            "verdict": self.verdict,
            "density": self.density,
            "times": self.times,
            "text": self.text,
        }


def density_at(trace: Trace, times: float) -> float:
    """Mean density of the neuron layers when each fires ``times`` as much, at most 1 per layer."""
    layers = trace.neurons.values()
    return sum(layer.density * limited(times, layer.density) for layer in layers) / len(layers)


def most_times(trace: Trace) -> float:
    """The multiple of the measured events at which every layer that fires at all has density 1."""
    least = min((layer.density for layer in trace.neurons.values() if layer.density), default=1.0)
    return 1 / least


def curve_of(
    trace: Trace, precision: Precision, phase: Phase, table: PriceTable, times: Sequence[float]
) -> list[float]:
    """Picojoules at each multiple of the measured events."""
    return [ledger_of(trace, precision, phase, table, spikes=f).picojoules for f in times]


def break_even(
    trace: Trace,
    spiking_format: Precision,
    phase: Phase,
    table: PriceTable,
    dense_format: Precision,
    dense: float,
) -> BreakEven:
    """The break-even of the spiking model of ``trace`` with ``dense`` picojoules."""
    most = most_times(trace)

    def cost(times: float) -> float:
        return ledger_of(trace, spiking_format, phase, table, spikes=times).picojoules

    verdict, times = solve(cost, dense, most)
    return BreakEven(
        phase, spiking_format.name, dense_format.name, cost(1.0) / dense, verdict,
        None if times is None else density_at(trace, times), times,
    )  # fmt: skip


def solve(
    cost: Callable[[float], float], limit: float, most: float
) -> tuple[Verdict, float | None]:
    """Largest ``f`` in (0, most] at which a rising ``cost`` stays below ``limit``."""
    if cost(0.0) >= limit:
        return "never", None
    if cost(most) < limit:
        return "always", None
    low, high = 0.0, most
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) < limit else (low, middle)
    return "below", low
