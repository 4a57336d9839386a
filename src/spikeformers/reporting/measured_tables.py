"""A measurement on this machine as tables and notes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from spikeformers.evaluation.measured import MeasuredPhase, MeasuredReport, Spread
from spikeformers.reporting.tables import Table


def tables(report: MeasuredReport) -> list[Table]:
    """One table per phase and one of memory, with a column per system."""
    phases = next(iter(report.systems.values())).phases
    return [*(_of_phase(report, name) for name in phases), _of_memory(report)]


def tables_with_notes(report: MeasuredReport) -> list[Table]:
    """The same tables, with the notes below the last."""
    *earlier, last = tables(report)
    return [*earlier, last._replace(note="\n".join(notes(report)))]


def notes(report: MeasuredReport) -> list[str]:
    """Setting, meters and counters, one line each."""
    setting = ", ".join(f"{key.replace('_', ' ')} {n}" for key, n in report.setting.items())
    lines = [setting, "wall clock includes waiting for other programs, processor time does not"]
    if report.meters:
        idle = "; ".join(
            f"{zone} {before:.1f} W before and {after:.1f} W after"
            for zone, (before, after) in report.idle_watts.items()
        )
        lines.append(f"joules are those of the whole {', '.join(report.meters)}; at rest: {idle}")
    else:
        lines.append("no joules were measured: this machine has no meter that can be read")
    lines += report.no_meter
    if report.no_hardware:
        lines.append(f"no hardware counters: {report.no_hardware}")
    return lines + [f"no {system}: {reason}" for system, reason in report.absent.items()]


def _of_phase(report: MeasuredReport, name: str) -> Table:
    phases = {system: measured.phases[name] for system, measured in report.systems.items()}
    unit = next(iter(phases.values())).unit
    rows = [
        _row(f"{unit}s per second", phases, lambda p: f"{p.timing.tokens_per_second:,.1f}"),
        _row("wall clock, ms", phases, lambda p: _spread(p.wall_seconds, 1e3)),
        _row("processor time, ms", phases, lambda p: _spread(p.cpu_seconds, 1e3)),
    ]
    if any("neurons" in phase.counted for phase in phases.values()):
        rows.append(_row("firing density, counted", phases, _density))
    for key, title in (
        ("weight_bytes", "bytes of weights read, counted"),
        ("cache_bytes", "bytes of cache read, counted"),
    ):
        if any(key in phase.counted for phase in phases.values()):
            rows.append((title, *(_number(phase.counted, key) for phase in phases.values())))
    if any(phase.hardware for phase in phases.values()):
        rows += [
            (title, *(_number(phase.hardware, key) for phase in phases.values()))
            for key, title in (
                ("instructions", "instructions"),
                ("cache_misses", "cache misses (64-byte lines)"),
            )
        ]
    if any(phase.energy for phase in phases.values()):
        rows += [_row("joules above rest", phases, _net), _row("joules, all", phases, _gross)]
    return Table(f"{name}, per {unit} (measured)", ("", *phases), rows)


def _of_memory(report: MeasuredReport) -> Table:
    systems = report.systems.values()
    rows = [
        ("peak while running", *(_mib(each.memory.peak_bytes) for each in systems)),
        ("peak while opening", *(_mib(each.memory.peak_bytes_opening) for each in systems)),
        ("interpreter, libraries", *(_mib(each.memory.libraries_bytes) for each in systems)),
        ("weights", *(_mib(each.weight_bytes) for each in systems)),
    ]
    return Table("Resident memory of each process, MiB (measured)", ("", *report.systems), rows)


def _row(
    title: str, phases: Mapping[str, MeasuredPhase], show: Callable[[MeasuredPhase], str]
) -> tuple[str, ...]:
    return (title, *map(show, phases.values()))


def _spread(spread: Spread, times: float) -> str:
    low, high = (_short(times * x) for x in (spread.least, spread.most))
    return f"{_short(times * spread.median)} ({low} to {high})"


def _short(x: float) -> str:
    return f"{x:,.3g}" if abs(x) < 1000 else f"{x:,.0f}"


def _number(counted: Mapping[str, float], key: str) -> str:
    return f"{counted[key]:,.0f}" if key in counted else "-"


def _density(phase: MeasuredPhase) -> str:
    counted = phase.counted
    return f"{counted['events'] / counted['neurons']:.3f}" if "neurons" in counted else "-"


def _net(phase: MeasuredPhase) -> str:
    return "-" if phase.energy is None else _spread(phase.energy.net_joules, 1.0)


def _gross(phase: MeasuredPhase) -> str:
    return "-" if phase.energy is None else _spread(phase.energy.gross_joules, 1.0)


def _mib(size: int | None) -> str:
    return "-" if size is None else f"{size / 2**20:,.1f}"
