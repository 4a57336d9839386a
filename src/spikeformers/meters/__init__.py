"""What the machine itself can tell: joules, cache misses, memory. Nothing here imports torch.

    energy.py     RAPL (processor packages and their memory) and NVML (accelerators), in joules
    counters.py   hardware counters of one process, through perf_event_open
    memory.py     resident memory of one process
    child.py      a process of its own for one system, so that its memory is its own

A machine that lacks a meter says so, and why; nothing is estimated in its place.
"""

from __future__ import annotations

from spikeformers.meters.counters import Counters
from spikeformers.meters.energy import Meter, Nvml, Rapl, Tally, find_meters
from spikeformers.meters.memory import peak_bytes, resident_bytes

__all__ = [
    "Counters",
    "Meter",
    "Nvml",
    "Rapl",
    "Tally",
    "find_meters",
    "peak_bytes",
    "resident_bytes",
]
