"""The records of a measurement. Figures are per token or image, unless a name says otherwise."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from spikeformers.evaluation.systems import Timing


@dataclass(frozen=True)
class Spread:
    """Median, minimum and maximum of the repeats."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Energy:
    """Joules from a meter, of everything on the package or device, other programs included."""

    gross_joules: Spread
    net_joules: Spread
    """Gross minus the idle energy, measured before and after while all systems waited; negative if
    the noise is larger than the work."""
    by_zone: dict[str, float]
    """Gross, medians."""
    seconds: float
    """Median duration of one reading, all tokens together; short ones are noisy."""


@dataclass(frozen=True)
class MeasuredPhase:
    """One kind of work of one system: "prefill", "decode" or "forward"."""

    unit: str
    units: int
    """In each repeat."""
    timing: Timing
    wall_seconds: Spread
    cpu_seconds: Spread
    """Processor time of the whole process, all threads."""
    counted: dict[str, float]
    """Exact counters of the program; the engine's are events, neurons, weight_bytes, cache_bytes.
    Empty for a program without counters."""
    hardware: dict[str, float]
    """Hardware counters, medians; empty if the machine has none."""
    energy: Energy | None
    """None if no meter can be read."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "unit": self.unit,
            "units": self.units,
            f"{self.unit}s_per_second": self.timing.tokens_per_second,
            "milliseconds": self.timing.milliseconds,
            "wall_seconds": asdict(self.wall_seconds),
            "cpu_seconds": asdict(self.cpu_seconds),
            "counted": self.counted or None,
            "hardware": self.hardware or None,
            "energy": None if self.energy is None else asdict(self.energy),
        }


@dataclass(frozen=True)
class Memory:
    """Resident memory of a system's own process, in bytes."""

    peak_bytes: int
    """Peak while it ran; includes opening if ``peak_is_of_running`` is false."""
    peak_bytes_opening: int
    """Peak until the model was open."""
    libraries_bytes: int | None
    """Interpreter and libraries, before the model."""
    peak_is_of_running: bool


@dataclass(frozen=True)
class Measured:
    """One system."""

    device: str
    weight_bytes: int | None
    memory: Memory
    phases: dict[str, MeasuredPhase]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "device": self.device,
            "weight_bytes": self.weight_bytes,
            "memory": asdict(self.memory),
            **{name: phase.as_dict() for name, phase in self.phases.items()},
        }


@dataclass(frozen=True)
class MeasuredReport:
    """Several systems, measured in turns."""

    systems: dict[str, Measured]
    setting: dict[str, Any]
    """batch_size, threads, repeats, warmup, prompt_tokens and new_tokens of a text, and the load
    average of the machine before."""
    meters: tuple[str, ...]
    """Zones of the meters that were read; empty without a meter."""
    no_meter: tuple[str, ...]
    """Reasons for missing meters, one sentence each."""
    idle_watts: dict[str, tuple[float, float]]
    """By zone, with every system open and waiting: before and after all turns."""
    no_hardware: str | None
    """The reason why there are no hardware counters; None if there are."""
    absent: dict[str, str]
    """Systems that could not be measured -> the reason."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, systems by their names at the top."""
        return {
            "label": "measured",
            **{name: system.as_dict() for name, system in self.systems.items()},
            "setting": self.setting,
            "meters": {
                "read": list(self.meters),
                "missing": list(self.no_meter),
                "idle_watts": {zone: list(pair) for zone, pair in self.idle_watts.items()},
            },
            "hardware_counters": {"missing": self.no_hardware},
            "absent": self.absent,
        }

    def ratio(self, system: str, other: str, phase: str, *, cpu: bool = False) -> float:
        """Time of ``other`` divided by that of ``system``, by medians."""
        first, second = (self.systems[name].phases[phase] for name in (system, other))
        if cpu:
            return second.cpu_seconds.median / first.cpu_seconds.median
        return second.wall_seconds.median / first.wall_seconds.median


RESERVED = ("label", "setting", "meters", "hardware_counters", "absent")
"""Names not allowed for systems, because `MeasuredReport.as_dict` uses them."""
