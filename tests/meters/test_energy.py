"""RAPL from a tree of files like that of Linux, NVML from a module that stands in for pynvml."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from spikeformers.errors import SpikeformersError
from spikeformers.meters import Nvml, Rapl, Tally, find_meters
from spikeformers.meters.energy import net


def zone(folder: Path, name: str, energy: int, most: int = 1000) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{energy}\n")
    (folder / "max_energy_range_uj").write_text(f"{most}\n")
    return folder


@pytest.fixture
def powercap(tmp_path: Path) -> Path:
    """Two packages, one with memory beside it, and every zone that counts the same joules again."""
    zone(tmp_path / "intel-rapl:0", "package-0", 990)
    zone(tmp_path / "intel-rapl:0" / "intel-rapl:0:0", "core", 100)
    zone(tmp_path / "intel-rapl:0" / "intel-rapl:0:1", "dram", 50, 500)
    zone(tmp_path / "intel-rapl:1", "package-1", 10)
    zone(tmp_path / "intel-rapl:2", "psys", 7)
    zone(tmp_path / "intel-rapl-mmio:0", "package-0", 990)
    return tmp_path


def test_packages_and_their_memory_are_counted_once(powercap):
    (meter,), missing = find_meters(powercap=powercap)
    assert missing == []
    assert meter.zones == ("package-0", "package-0/dram", "package-1")
    assert meter.read() == (990, 50, 10)


def test_a_counter_that_starts_again(powercap):
    (meter,), _ = find_meters(powercap=powercap)
    tally = Tally([meter])
    # package-0: 990 -> 30 of 1,000: 40 uJ; dram: 50 -> 70: 20 uJ; package-1: 10 -> 10: nothing
    (powercap / "intel-rapl:0" / "energy_uj").write_text("30")
    (powercap / "intel-rapl:0" / "intel-rapl:0:1" / "energy_uj").write_text("70")
    first = {"package-0": 40e-6, "package-0/dram": 20e-6, "package-1": 0.0}
    assert tally.look() == pytest.approx(first)
    # and once more: 30 -> 1,000 - 1 -> 5, seen at both, is 969 + 6
    (powercap / "intel-rapl:0" / "energy_uj").write_text("999")
    tally.look()
    (powercap / "intel-rapl:0" / "energy_uj").write_text("5")
    assert tally.look()["package-0"] == pytest.approx((40 + 969 + 6) * 1e-6)
    assert tally.seconds > 0
    tally.start()
    assert tally.look()["package-0"] == 0


def test_no_folder_no_package_no_permission(tmp_path, powercap, monkeypatch):
    assert find_meters(powercap=tmp_path / "none")[0] == []
    assert "there is no" in find_meters(powercap=tmp_path / "none")[1][0]
    empty = tmp_path / "empty"
    zone(empty / "intel-rapl:0", "psys", 1)
    assert "no package zone" in find_meters(powercap=empty)[1][0]

    def refuse(self: Rapl) -> tuple[int, ...]:
        raise PermissionError(13, "Permission denied", "energy_uj")

    monkeypatch.setattr(Rapl, "read", refuse)  # root reads everything, so no mode bits here
    meters, (why,) = find_meters(powercap=powercap)
    assert meters == []
    assert "may not be read: energy_uj" in why


def test_a_counter_that_is_not_a_number(powercap):
    (powercap / "intel-rapl:1" / "energy_uj").write_text("much")
    assert "cannot be read" in find_meters(powercap=powercap)[1][0]


def test_nvml_counts_millijoules(monkeypatch):
    stand_in = ModuleType("pynvml")
    counts = iter([1000, 1000, 3500])
    handles = []
    stand_in.nvmlInit = lambda: None  # type: ignore[attr-defined]
    stand_in.nvmlDeviceGetHandleByUUID = handles.append  # type: ignore[attr-defined]
    stand_in.nvmlDeviceGetName = lambda device: "Some GPU"  # type: ignore[attr-defined]
    stand_in.nvmlDeviceGetTotalEnergyConsumption = lambda device: next(counts)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pynvml", stand_in)
    meter = Nvml("abc")
    assert handles == ["GPU-abc"]
    assert meter.joules(meter.read(), meter.read()) == {"Some GPU": 2.5}


def test_idle_power_is_subtracted():
    assert net(50.0, 20.0, 2.0) == 10.0
    assert net(30.0, 20.0, 2.0) == -10.0  # noise is reported, not cut off
    with pytest.raises(SpikeformersError, match="0 seconds"):
        net(1.0, 1.0, 0)
