"""Resident memory of this process, in bytes."""

from __future__ import annotations

import sys
from pathlib import Path

_SELF = Path("/proc/self")


def resident_bytes() -> int | None:
    """Bytes that are resident now; None on a system without /proc."""
    return _of_status("VmRSS")


def peak_bytes() -> int:
    """The most bytes that were resident since the start, or since ``forget_peak``."""
    # Linux counts the parent's memory before exec in ru_maxrss, and not in VmHWM.
    peak = _of_status("VmHWM")
    if peak is not None:
        return peak
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def forget_peak() -> bool:
    """Reset the peak; False where the system cannot."""
    try:
        (_SELF / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _of_status(key: str, status: Path = _SELF / "status") -> int | None:
    if not status.is_file():
        return None
    for line in status.read_text(encoding="ascii", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024
    return None
