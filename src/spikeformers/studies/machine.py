"""The machine and the versions that a number was measured with."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch

from spikeformers.evaluation.provenance import versions

__all__ = ["machine", "versions"]


def machine() -> dict[str, Any]:
    """Processor, cores this process may use, memory, system and, if any, the accelerator.

    ``waiting`` is OpenMP's ``OMP_WAIT_POLICY``, "default" if it is not set.
    """
    facts: dict[str, Any] = {
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": _cores(),
        "threads": torch.get_num_threads(),
        "waiting": os.environ.get("OMP_WAIT_POLICY", "default"),
    }
    memory = _memory()
    if memory is not None:
        facts["memory_gib"] = round(memory / 2**30, 1)
    if torch.cuda.is_available():
        facts["accelerator"] = torch.cuda.get_device_name()
    return facts


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux only
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # not known on this system
        return None
