"""The table of ``spikeformers bench``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spikeformers.reporting.tables import Table

if TYPE_CHECKING:
    from spikeformers.studies.bench import BenchStudy

SPEED = ("", "tokens/s", "from to", "by CPU time", "engine-int8 is", "by CPU time")
MEMORY = ("", "resident", "of which libraries", "engine-int8 is")


def bench_table(study: BenchStudy) -> Table:
    """One row per system: speed, or memory."""
    title = f"{study.what}, {study.setting['threads']} thread(s)"
    if study.cpu_ratios is None:
        rows = [
            (name, _mib(figures["resident_bytes"]), _mib(figures["library_bytes"]),
             f"{study.ratios[name]:.2f}")
            for name, figures in study.results.items()
        ]  # fmt: skip
        return Table(title, MEMORY, rows)
    rows_of_speed = [
        (
            name,
            f"{figures['tokens_per_second']:,.1f}",
            f"{figures['slowest']:,.1f} to {figures['fastest']:,.1f}",
            f"{figures['cpu_tokens_per_second']:,.1f}",
            f"{study.ratios[name]:.2f}",
            f"{study.cpu_ratios[name]:.2f}",
        )
        for name, figures in study.results.items()
    ]
    return Table(title, SPEED, rows_of_speed)


def engine_reads(study: BenchStudy) -> str:
    """What a token of the int8 engine reads, and where its time goes; empty for memory."""
    figures = study.results["engine-int8"]
    if "density" not in figures:
        return ""
    read = (
        f"density {figures['density']:.3f}; read per token: "
        f"{figures['weight_bytes_per_token']:,.0f} bytes of weights "
        f"({figures['weight_share']:.1%}), "
        f"{figures['cache_bytes_read_per_token']:,.0f} of cache; "
        f"cache: {figures['cache_bytes_per_token']:,.0f} bytes per token"
    )
    return read + _time_by_part(figures.get("microseconds", {}))


def _time_by_part(microseconds: dict[str, float]) -> str:
    """Where the time of a token goes, the largest part first; empty without parts."""
    total = sum(microseconds.values())
    if total == 0:
        return ""
    largest_first = sorted(microseconds.items(), key=lambda part: -part[1])
    parts = ", ".join(f"{name} {time / total:.0%}" for name, time in largest_first)
    return f"; time of a token: {parts} of {total:,.1f} us"


def _mib(size: int | None) -> str:
    return "-" if size is None else f"{size / 2**20:,.0f} MiB"
