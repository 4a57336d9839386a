"""The stopwatch: two clocks, started together."""

from __future__ import annotations

import itertools

import pytest

from spikeformers.meters import Seconds, Stopwatch, clock, stopwatch


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wall clock that moves 2 s with each reading, and a processor clock that moves 0.5 s."""
    wall, cpu = itertools.count(100, 2), itertools.count(7, 0.5)
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: float(next(wall)))
    monkeypatch.setattr(stopwatch.time, "process_time", lambda: float(next(cpu)))


@pytest.mark.usefixtures("ticking")
def test_it_counts_from_when_it_is_created_or_from_the_last_start() -> None:
    watch = Stopwatch()
    assert watch.read() == Seconds(wall=2.0, cpu=0.5)
    assert watch.read() == (4.0, 1.0)
    watch.start()
    assert watch.read() == (2.0, 0.5)


@pytest.mark.usefixtures("ticking")
def test_a_clock_calls_its_work_once_and_times_only_that() -> None:
    calls: list[str] = []
    assert clock(lambda: calls.append("called")) == (2.0, 0.5)
    assert calls == ["called"]
