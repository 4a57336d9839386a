"""Hardware counters of this process and its later threads: instructions, cache misses.

Linux' ``perf_event_open``, user space only, which needs no rights up to ``perf_event_paranoid`` 2.
Virtual machines often have no counters. What the kernel's generic "cache-misses" counts depends on
the processor: misses of the last cache level on Intel, of the second on AMD Zen; lines fetched by a
hardware prefetcher may not be counted. Misses times 64 bytes are therefore a lower bound on the
traffic from beyond that cache, not a count of its bytes.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

EVENTS = {"instructions": 1, "cache_references": 2, "cache_misses": 3}
"""Our names of events, and their numbers of type PERF_TYPE_HARDWARE in linux/perf_event.h."""
LINE_BYTES = 64
_SYSCALL = {"x86_64": 298, "aarch64": 241}
_SIZE = 112  # of perf_event_attr, version 5
_INHERIT, _EXCLUDE_KERNEL, _EXCLUDE_HV = 1 << 1, 1 << 5, 1 << 6
_TIMES = 1 | 2  # read_format: time enabled, time running


class Counters:
    """Counters of this process since they were opened, including threads that start later.

    Where there are no counters, ``reason`` says why and ``read`` returns an empty dictionary.
    """

    def __init__(self) -> None:
        self._files: dict[str, int] = {}
        self.reason = ""
        call = _SYSCALL.get(platform.machine())
        if sys.platform != "linux" or call is None:
            self.reason = f"no hardware counters are read on {sys.platform} {platform.machine()}"
            return
        for name, number in EVENTS.items():
            file, problem = _open(call, number)
            if file < 0:
                self.reason = self.reason or f"no counter of {name}: {problem}"
            else:
                self._files[name] = file

    def read(self) -> dict[str, float]:
        """Each counter, scaled up where the kernel had to share the hardware among several."""
        counts = {}
        for name, file in self._files.items():
            value, enabled, running = struct.unpack("QQQ", os.read(file, 24))
            counts[name] = value * enabled / running if running else 0.0
        return counts

    def close(self) -> None:
        """Release the counters."""
        for file in self._files.values():
            os.close(file)
        self._files = {}


def _open(call: int, number: int) -> tuple[int, str]:
    """The counter's file descriptor, or -1 and the reason why it cannot be opened."""
    attributes = bytearray(_SIZE)
    flags = _INHERIT | _EXCLUDE_KERNEL | _EXCLUDE_HV
    # type, size, config, sample period, sample type, read format, flags
    struct.pack_into("<IIQQQQQ", attributes, 0, 0, _SIZE, number, 0, 0, _TIMES, flags)
    libc = ctypes.CDLL(None, use_errno=True)
    handed = (ctypes.c_char * _SIZE).from_buffer(attributes)
    file = int(libc.syscall(call, handed, 0, -1, -1, 0))
    if file >= 0:
        return file, ""
    error = ctypes.get_errno()
    if error in (1, 13):  # EPERM, EACCES
        return file, "perf_event_open is not permitted (see /proc/sys/kernel/perf_event_paranoid)"
    if error == 2:  # ENOENT
        return file, "this processor, or the virtual machine around it, offers none"
    return file, os.strerror(error)
