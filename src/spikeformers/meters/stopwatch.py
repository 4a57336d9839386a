"""Wall-clock time and processor time of a piece of work, in seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple


class Seconds(NamedTuple):
    """How long a piece of work took."""

    wall: float
    cpu: float
    """Processor time of all threads of this process."""


class Stopwatch:
    """Runs from when it is created, or from the last ``start``."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begin at zero, now."""
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> Seconds:
        """Seconds since the start."""
        return Seconds(time.perf_counter() - self._wall, time.process_time() - self._cpu)


def clock(work: Callable[[], object]) -> Seconds:
    """Call ``work`` once and return its duration."""
    watch = Stopwatch()
    work()
    return watch.read()
