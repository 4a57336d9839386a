"""Public names of the room, and how its wings stand on each other."""

from __future__ import annotations

import subprocess
import sys

import spikeformers
from spikeformers import energy

# The room's own __init__ offers everything, so a bare module stands in for it.
COUNTING_ALONE = """
import importlib.util, sys, types
room = types.ModuleType("spikeformers.energy")
room.__path__ = importlib.util.find_spec("spikeformers.energy").submodule_search_locations
sys.modules["spikeformers.energy"] = room
import spikeformers.energy.counting.tracer
wings = {name.split(".")[2] for name in sys.modules if name.startswith("spikeformers.energy.")}
print(*sorted(wings))
"""


def test_earlier_names_continue_to_work() -> None:
    assert energy.Side is energy.OperandHistory
    assert energy.Table is energy.PriceTable
    assert energy.Work is energy.WorkItem
    assert spikeformers.energy_of is energy.energy_of


def test_every_public_name_is_there() -> None:
    assert [name for name in energy.__all__ if not hasattr(energy, name)] == []


def test_the_tracer_does_not_need_the_other_wings() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", COUNTING_ALONE], capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() == ["counting"]
