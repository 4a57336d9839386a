"""Joules: RAPL of the processor, NVML of an accelerator, where this user may read them.

RAPL, through the powercap files of Linux (Intel since 2011, AMD since Zen): ``energy_uj`` counts
microjoules up to ``max_energy_range_uj`` and starts again at 0. The packages and their memory are
counted; the zones inside a package ("core", "uncore"), the platform ("psys") and the second view of
a package ("intel-rapl-mmio") would count the same joules again. NVML counts millijoules of a whole
device since its driver was loaded (Volta and newer).

Both count everything that runs on the package or device, including other programs.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from spikeformers.errors import SpikeformersError
from spikeformers.meters.stopwatch import Stopwatch

POWERCAP = Path("/sys/class/powercap")


class Meter(Protocol):
    """Energy counters that only increase, except that a counter may wrap around to 0."""

    source: str
    zones: tuple[str, ...]

    def read(self) -> tuple[int, ...]:
        """The current counters, one per zone, in units of the meter."""

    def joules(self, before: Sequence[int], after: Sequence[int]) -> dict[str, float]:
        """Joules that each zone used between two readings."""


class Rapl:
    """Zones of the powercap tree."""

    source = "RAPL"

    def __init__(self, folders: Sequence[Path]) -> None:
        """Zones in ``folders``; OSError or ValueError if one cannot be read."""
        names = [_text(folder / "name") for folder in folders]
        parents = [
            _text(f.parent / "name") if (f.parent / "name").is_file() else "" for f in folders
        ]
        self.zones = tuple(
            f"{parent}/{name}" if parent else name
            for parent, name in zip(parents, names, strict=True)
        )
        self._files = [folder / "energy_uj" for folder in folders]
        self._range = [int(_text(folder / "max_energy_range_uj")) for folder in folders]
        self.read()

    def read(self) -> tuple[int, ...]:
        """Microjoules of each zone."""
        return tuple(int(_text(file)) for file in self._files)

    def joules(self, before: Sequence[int], after: Sequence[int]) -> dict[str, float]:
        """Joules per zone; a counter that is smaller than before has wrapped around once."""
        return {
            zone: (late - early + (most if late < early else 0)) / 1e6
            for zone, early, late, most in zip(self.zones, before, after, self._range, strict=True)
        }


class Nvml:
    """One device through the module ``pynvml``, by the UUID that torch gives it."""

    source = "NVML"

    def __init__(self, uuid: str) -> None:
        """Raises ImportError without pynvml, pynvml's errors if the device reports no energy."""
        self._nvml: Any = importlib.import_module("pynvml")
        self._nvml.nvmlInit()
        name = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
        self._device = self._nvml.nvmlDeviceGetHandleByUUID(name)
        device = self._nvml.nvmlDeviceGetName(self._device)
        device = device.decode() if isinstance(device, bytes) else str(device)
        self.zones: tuple[str, ...] = (device,)
        self.read()

    def read(self) -> tuple[int, ...]:
        """Millijoules since the driver was loaded."""
        return (int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._device)),)

    def joules(self, before: Sequence[int], after: Sequence[int]) -> dict[str, float]:
        """Joules between two readings."""
        return {self.zones[0]: (after[0] - before[0]) / 1e3}


class Tally:
    """Joules of several meters since ``start``; call ``look`` before a counter can wrap twice."""

    def __init__(self, meters: Sequence[Meter]) -> None:
        self.meters = meters
        self.start()

    def start(self) -> None:
        """Begin at zero, now."""
        self._joules: dict[str, float] = {}
        self._last = [meter.read() for meter in self.meters]
        self._watch = Stopwatch()
        self.seconds = 0.0

    def look(self) -> dict[str, float]:
        """Joules of each zone so far."""
        for place, meter in enumerate(self.meters):
            now = meter.read()
            for zone, joules in meter.joules(self._last[place], now).items():
                self._joules[zone] = self._joules.get(zone, 0.0) + joules
            self._last[place] = now
        self.seconds = self._watch.read().wall
        return dict(self._joules)


def find_meters(device: str = "cpu", powercap: Path = POWERCAP) -> tuple[list[Meter], list[str]]:
    """The meters that this user may read on this machine, and the reasons why others are missing.

    ``device`` is "cpu", or a torch device such as "cuda:0", whose meter is looked for as well.
    """
    meters: list[Meter] = []
    reasons: list[str] = []
    rapl = _find_rapl(powercap)
    if isinstance(rapl, str):
        reasons.append(rapl)
    else:
        meters.append(rapl)
    if device.startswith("cuda"):
        nvml = _find_nvml(device)
        if isinstance(nvml, str):
            reasons.append(nvml)
        else:
            meters.append(nvml)
    return meters, reasons


def _find_rapl(powercap: Path) -> Rapl | str:
    if not powercap.is_dir():
        return f"no RAPL: there is no {powercap} (not Linux, or a virtual machine without it)"
    try:
        folders = _zones(powercap)
        if not folders:
            return f"no RAPL: {powercap} has no package zone (intel-rapl:N)"
        return Rapl(folders)
    except PermissionError as error:
        return (
            f"RAPL is there but may not be read: {error.filename} is for the administrator alone "
            "(since Linux 5.10); run as root, or let it be read (chmod a+r)"
        )
    except (OSError, ValueError) as error:
        return f"RAPL is there but cannot be read: {error}"


def _zones(powercap: Path) -> list[Path]:
    """Packages, each followed by its memory."""
    folders = []
    for package in sorted(powercap.iterdir()):
        is_package = re.fullmatch(r"intel-rapl:\d+", package.name)
        if is_package and _text(package / "name").startswith("package"):
            zones = sorted(package.glob(f"{package.name}:*"))
            folders += [package, *(zone for zone in zones if _text(zone / "name") == "dram")]
    return folders


def _find_nvml(device: str) -> Nvml | str:
    if importlib.util.find_spec("pynvml") is None:
        return "no NVML: the module pynvml is not installed (pip install nvidia-ml-py)"
    import torch

    uuid = str(torch.cuda.get_device_properties(torch.device(device)).uuid)
    try:
        return Nvml(uuid)
    except Exception as error:  # pynvml has types of its own, and no common base outside it
        return f"NVML is there but gives no energy of {device}: {error}"


def _text(file: Path) -> str:
    return file.read_text(encoding="ascii").strip()


def net(gross: float, watts: float, seconds: float) -> float:
    """Joules above the idle power ``watts``; negative if noise exceeds the work's energy.

    Raises SpikeformersError unless ``seconds`` is positive.
    """
    if seconds <= 0:
        raise SpikeformersError(f"energy needs a duration above zero, not {seconds} seconds.")
    return gross - watts * seconds
