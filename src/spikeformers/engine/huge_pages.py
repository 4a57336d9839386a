"""Memory in pages of 2 MiB, which Linux gives to programs that ask for them.

A processor remembers where a few thousand pages lie. Weights that are read row by row for each
token are ten thousands of pages of 4 KiB, and for each it has to look the place up; of 2 MiB there
are few. Files cannot be mapped in such pages, so that the weights have to be copied.
"""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spikeformers.errors import UsageError

SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
FREE = Path("/proc/meminfo")
PAGE = 2 << 20
SHARE = 0.25
"""Of the memory that is free, what weights may take without being asked for."""


def available() -> bool:
    """Whether this system gives huge pages to a program that asks (``madvise`` or ``always``)."""
    try:
        allowed = "[never]" not in SETTING.read_text()
    except OSError:  # not Linux, or a container that hides it
        return False
    return allowed and hasattr(mmap, "MADV_HUGEPAGE")


def worthwhile(size: int) -> bool:
    """Whether ``size`` bytes of weights are copied without being asked for.

    They are where they fill a page, and take at most a quarter of the memory that is free.
    """
    return available() and PAGE <= size <= SHARE * _free()


def allocate(size: int) -> NDArray[np.uint8]:
    """``size`` bytes, zero, in huge pages as far as the system has them.

    Raises UsageError where it has none.
    """
    if not available():
        raise UsageError(
            f"this system gives no huge pages ({SETTING} is missing, or says never): leave out "
            "huge_pages."
        )
    # A page more, so that the first byte can lie at the beginning of one.
    area = mmap.mmap(-1, size + PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(area, np.uint8)
    first = -whole.ctypes.data % PAGE
    return whole[first : first + size]


def _free() -> int:
    """Bytes of memory that the system says are available; 0 where it does not say."""
    try:
        for line in FREE.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return 0
    return 0
