"""A measurement as tables of plain strings: a title, columns, rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from spikeformers.evaluation.measured.records import MeasuredReport, Phase, Spread


class Table(NamedTuple):
    """Rows as long as ``columns``."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def tables(report: MeasuredReport) -> list[Table]:
    """One table a phase, one of memory, a column a system. ``notes`` says the rest."""
    phases = next(iter(report.systems.values())).phases
    return [*(_of_phase(report, name) for name in phases), _of_memory(report)]


def notes(report: MeasuredReport) -> list[str]:
    """Setting, meters and counters in a sentence each."""
    said = [", ".join(f"{key.replace('_', ' ')} {n}" for key, n in report.setting.items())]
    said.append("wall clock counts waiting for other programs, processor time does not")
    if report.meters:
        rest = "; ".join(
            f"{zone} {one:.1f} W before and {two:.1f} W after"
            for zone, (one, two) in report.idle_watts.items()
        )
        said.append(f"joules are of the whole {', '.join(report.meters)}; at rest: {rest}")
    else:
        said.append("no joules were measured: this machine has no meter that can be read")
    said += report.no_meter
    if report.no_hardware:
        said.append(f"no hardware counters: {report.no_hardware}")
    return said + [f"no {system}: {why}" for system, why in report.absent.items()]


def _of_phase(report: MeasuredReport, name: str) -> Table:
    found = {system: one.phases[name] for system, one in report.systems.items()}
    first = next(iter(found.values()))
    rows = [
        _row(f"{first.unit}s a second", found, lambda one: f"{one.timing.tokens_per_second:,.1f}"),
        _row("wall clock, ms", found, lambda one: _said(one.wall_seconds, 1e3)),
        _row("processor time, ms", found, lambda one: _said(one.cpu_seconds, 1e3)),
    ]
    if any("neurons" in one.counted for one in found.values()):
        rows.append(_row("firing density, counted", found, _density))
    for key, title in (
        ("weight_bytes", "bytes of weights read, counted"),
        ("cache_bytes", "bytes of cache read, counted"),
    ):
        if any(key in one.counted for one in found.values()):
            rows.append((title, *(_number(one.counted, key) for one in found.values())))
    if any(one.hardware for one in found.values()):
        rows += [
            (title, *(_number(one.hardware, key) for one in found.values()))
            for key, title in (
                ("instructions", "instructions"),
                ("cache_misses", "cache misses (64-byte lines)"),
            )
        ]
    if any(one.energy for one in found.values()):
        rows += [
            _row("joules above rest", found, _net),
            _row("joules, all", found, _gross),
        ]
    return Table(f"{name}, a {first.unit} (measured)", ("", *found), rows)


def _of_memory(report: MeasuredReport) -> Table:
    systems = report.systems
    rows = [
        ("peak while running", *(_mib(one.memory.peak_bytes) for one in systems.values())),
        ("peak while opening", *(_mib(one.memory.peak_bytes_opening) for one in systems.values())),
        ("interpreter, libraries", *(_mib(o.memory.libraries_bytes) for o in systems.values())),
        ("weights", *(_mib(one.weight_bytes) for one in systems.values())),
    ]
    return Table("Resident memory of each process, MiB (measured)", ("", *systems), rows)


def _row(title: str, found: dict[str, Phase], say: Callable[[Phase], str]) -> tuple[str, ...]:
    return (title, *(say(one) for one in found.values()))


def _said(spread: Spread, times: float) -> str:
    low, high = (_short(times * x) for x in (spread.least, spread.most))
    return f"{_short(times * spread.median)} ({low} to {high})"


def _short(x: float) -> str:
    return f"{x:,.3g}" if abs(x) < 1000 else f"{x:,.0f}"


def _number(found: dict[str, float], key: str) -> str:
    return f"{found[key]:,.0f}" if key in found else "-"


def _density(one: Phase) -> str:
    counted = one.counted
    return f"{counted['events'] / counted['neurons']:.3f}" if "neurons" in counted else "-"


def _net(one: Phase) -> str:
    return "-" if one.energy is None else _said(one.energy.net_joules, 1.0)


def _gross(one: Phase) -> str:
    return "-" if one.energy is None else _said(one.energy.gross_joules, 1.0)


def _mib(size: int | None) -> str:
    return "-" if size is None else f"{size / 2**20:,.1f}"
