"""Measure several systems on this machine, each in its own process, in turns.

All stay open while they take turns, so that a busy machine slows all of them equally and each
process has its own peak of memory; all must fit in memory together. This process reads the meters
before and after each piece of work, and every second in between, because energy counters wrap
around within minutes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spikeformers.errors import ConfigError
from spikeformers.evaluation.measured.process import Child
from spikeformers.evaluation.measured.programs import Program, TextWork, Whole
from spikeformers.evaluation.measured.records import (
    RESERVED,
    Energy,
    Measured,
    MeasuredPhase,
    MeasuredReport,
    Memory,
    Spread,
)
from spikeformers.evaluation.systems import timing_of
from spikeformers.meters import Seconds, Tally, find_meters
from spikeformers.meters.energy import POWERCAP, net
from spikeformers.progress import Move, watched

Watts = dict[str, float]


@dataclass(frozen=True)
class Reading:
    """One piece of work: the answer of the process, and the readings of the meters."""

    answer: dict[str, Any]
    joules: dict[str, float]
    seconds: float


def measure(
    programs: Mapping[str, Program],
    work: TextWork | Whole,
    *,
    repeats: int = 5,
    warmup: int = 1,
    threads: int = 1,
    idle_seconds: float = 2.0,
    powercap: Path = POWERCAP,
    absent: Mapping[str, str] | None = None,
    progress: Move | None = None,
) -> MeasuredReport:
    """Let each program do ``work`` ``warmup`` + ``repeats`` times, in turns.

    ``threads`` is the programs' number of threads (it also limits their libraries);
    ``idle_seconds`` is how long the idle power of a machine with a meter is measured, before and
    after; ``absent`` maps systems that could not be measured to the reason, for the report;
    ``progress`` receives the turns taken and the total.
    Raises ConfigError for a wrong request, SpikeformersError if a process fails.
    """
    _check(programs, repeats, warmup, threads, idle_seconds)
    device = next((p.device for p in programs.values() if p.device != "cpu"), "cpu")
    meters, missing = find_meters(device, powercap)
    tally = Tally(meters)
    load = round(os.getloadavg()[0], 1)  # of the minute before
    with ExitStack() as stack:
        children = {
            name: stack.enter_context(Child(name, program, threads))
            for name, program in programs.items()
        }
        before = _idle(tally, idle_seconds)
        readings = _turns(children, work, tally, warmup, repeats, progress)
        after = _idle(tally, idle_seconds)
        memory = {name: Memory(**child.ask({"do": "memory"})) for name, child in children.items()}
        opened = {name: child.opened for name, child in children.items()}
    idle = {zone: (before[zone], after[zone]) for zone in before}
    at_rest = {zone: sum(pair) / 2 for zone, pair in idle.items()}
    systems = {
        name: Measured(
            device=program.device,
            weight_bytes=opened[name]["weight_bytes"],
            memory=memory[name],
            phases={
                phase: _phase(readings[name][phase], at_rest, *units)
                for phase, units in work.units.items()
            },
        )
        for name, program in programs.items()
    }
    reasons = [answer["no_hardware"] for answer in opened.values() if answer["no_hardware"]]
    return MeasuredReport(
        systems=systems,
        setting={
            **work.setting,
            **{"threads": threads, "repeats": repeats, "warmup": warmup, "load_average": load},
        },
        meters=tuple(before),
        no_meter=tuple(missing),
        idle_watts=idle,
        no_hardware=reasons[0] if reasons else None,
        absent=dict(absent or {}),
    )


def _check(
    programs: Mapping[str, Program], repeats: int, warmup: int, threads: int, idle: float
) -> None:
    if not programs or repeats < 1 or warmup < 0 or threads < 1 or idle <= 0:
        raise ConfigError(
            f"measuring needs at least one program, one repeat and one thread, a warm-up of 0 or "
            f"more and an idle time above 0; got {len(programs)} programs, {repeats} repeats, "
            f"{threads} threads, a warm-up of {warmup} and {idle} s."
        )
    for name in programs:
        if name in RESERVED:
            raise ConfigError(f"no program can be called {name!r}: the report uses this name.")


def _turns(
    children: Mapping[str, Child],
    work: TextWork | Whole,
    tally: Tally,
    warmup: int,
    repeats: int,
    progress: Move | None,
) -> dict[str, dict[str, list[Reading]]]:
    readings: dict[str, dict[str, list[Reading]]] = {
        name: {phase: [] for phase in work.units} for name in children
    }
    for turn in watched(range(warmup + repeats), progress):
        for name, child in children.items():
            for phase, request in work.requests.items():
                tally.start()
                answer = child.ask(request, tally.look)
                reading = Reading(answer, tally.look(), tally.seconds)
                if turn >= warmup:
                    readings[name][phase].append(reading)
    return readings


def _phase(readings: Sequence[Reading], idle: Watts, units: int, unit: str) -> MeasuredPhase:
    answers = [reading.answer for reading in readings]
    repeats = [Seconds(answer["wall"], answer["cpu"]) for answer in answers]
    calls = [
        Seconds(step, 0.0) for answer in answers for step in answer.get("steps", [answer["wall"]])
    ]

    def spread(key: str) -> Spread:
        return Spread.of([answer[key] / units for answer in answers])

    def medians(key: str) -> dict[str, float]:
        return {
            name: Spread.of([answer[key][name] / units for answer in answers]).median
            for name in answers[0][key]
        }

    return MeasuredPhase(
        unit=unit,
        units=units,
        timing=timing_of(repeats, calls, units),
        wall_seconds=spread("wall"),
        cpu_seconds=spread("cpu"),
        counted=medians("counted"),
        hardware=medians("hardware"),
        energy=_energy(readings, idle, units) if idle else None,
    )


def _energy(readings: Sequence[Reading], idle: Watts, units: int) -> Energy:
    gross = [sum(reading.joules.values()) for reading in readings]
    above = [
        net(joules, sum(idle.values()), reading.seconds)
        for joules, reading in zip(gross, readings, strict=True)
    ]
    return Energy(
        gross_joules=Spread.of([joules / units for joules in gross]),
        net_joules=Spread.of([joules / units for joules in above]),
        by_zone={
            zone: Spread.of([reading.joules[zone] / units for reading in readings]).median
            for zone in idle
        },
        seconds=Spread.of([reading.seconds for reading in readings]).median,
    )


def _idle(tally: Tally, seconds: float) -> Watts:
    """Watts per zone while every system waits; empty without a meter."""
    if not tally.meters:
        return {}
    tally.start()
    time.sleep(seconds)
    joules = tally.look()
    return {zone: used / tally.seconds for zone, used in joules.items()}
