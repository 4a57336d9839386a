"""The table of `spikeformers bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spikeformers.reporting.tables import Table

if TYPE_CHECKING:
    from spikeformers.studies.bench import BenchStudy

SPEED = ("", "tokens/s", "from to", "by CPU time", "engine-int8 is", "by CPU time")
MEMORY = ("", "resident", "of which libraries", "engine-int8 is")


def bench_table(study: BenchStudy) -> Table:
    """A row per system; of an engine a note says what it read."""
    title = f"{study.what}, {study.setting['threads']} thread(s)"
    if study.cpu_ratios is None:
        rows = [
            (name, _mib(took["resident_bytes"]), _mib(took["library_bytes"]),
             f"{study.ratios[name]:.2f}")
            for name, took in study.results.items()
        ]  # fmt: skip
        return Table(title, MEMORY, rows)
    rows_of_speed = [
        (
            name,
            f"{took['tokens_per_second']:,.1f}",
            f"{took['slowest']:,.1f} to {took['fastest']:,.1f}",
            f"{took['cpu_tokens_per_second']:,.1f}",
            f"{study.ratios[name]:.2f}",
            f"{study.cpu_ratios[name]:.2f}",
        )
        for name, took in study.results.items()
    ]
    return Table(title, SPEED, rows_of_speed)


def engine_reads(study: BenchStudy) -> str:
    """What the int8 engine read per token; empty where only memory was measured."""
    own = study.results["engine-int8"]
    if "density" not in own:
        return ""
    return (
        f"density {own['density']:.3f}; read per token: "
        f"{own['weight_bytes_per_token']:,.0f} bytes of weights, "
        f"{own['cache_bytes_read_per_token']:,.0f} of cache; "
        f"cache: {own['cache_bytes_per_token']:,.0f} bytes per token"
    )


def _mib(size: int | None) -> str:
    return "-" if size is None else f"{size / 2**20:,.0f} MiB"
