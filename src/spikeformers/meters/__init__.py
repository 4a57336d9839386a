"""Measurements by the machine itself: joules, cache misses, memory. Nothing here imports torch.

    energy.py     RAPL (processor packages and their memory) and NVML (accelerators), in joules
    counters.py   hardware counters of one process, through perf_event_open
    memory.py     resident memory of one process
    stopwatch.py  wall-clock and processor time
    child.py      a separate process for each measured system, so that memory is not shared

Where a machine lacks a meter, the reason is reported; nothing is estimated in its place.
"""

from __future__ import annotations

from spikeformers.meters.counters import Counters
from spikeformers.meters.energy import Meter, Nvml, Rapl, Tally, find_meters
from spikeformers.meters.memory import peak_bytes, resident_bytes
from spikeformers.meters.stopwatch import Seconds, Stopwatch, clock

__all__ = [
    "Counters",
    "Meter",
    "Nvml",
    "Rapl",
    "Seconds",
    "Stopwatch",
    "Tally",
    "clock",
    "find_meters",
    "peak_bytes",
    "resident_bytes",
]
