"""The benchmark of how threads wait: its ratios, its busy process, one cell of a few tokens."""

from __future__ import annotations

import argparse
import os
import runpy
from pathlib import Path

import pytest

SCRIPT = runpy.run_path(str(Path(__file__).resolve().parents[2] / "benchmarks" / "waiting.py"))


def test_ratios_are_of_cells_of_one_load() -> None:
    cells = {
        "default, 1 threads": 100.0, "active, 1 threads": 100.0, "passive, 1 threads": 90.0,
        "default, 2 threads": 10.0, "active, 2 threads": 5.0, "passive, 2 threads": 150.0,
    }  # fmt: skip
    assert SCRIPT["ratios"]({"idle": cells}, ["default", "active", "passive"])["idle"] == {
        "passive to default, 2 threads": 15.0,
        "passive to active, 2 threads": 30.0,
        "default, 2 threads to one": pytest.approx(0.1),
        "active, 2 threads to one": pytest.approx(0.05),
        "passive, 2 threads to one": pytest.approx(150 / 90),
    }


def test_the_busy_process_is_ended_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    popen = SCRIPT["subprocess"].Popen

    def watched(*arguments: object, **options: object) -> object:
        started.append(popen(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(SCRIPT["subprocess"], "Popen", watched)

    def work() -> None:
        with SCRIPT["beside"](2):
            assert [process.poll() for process in started] == [None, None]
            raise ValueError("over")

    with pytest.raises(ValueError, match="over"):
        work()
    assert [process.returncode for process in started] == [-9, -9]


@pytest.mark.slow
def test_a_cell_is_measured_in_a_process_with_its_own_setting(monkeypatch: pytest.MonkeyPatch):
    request = argparse.Namespace(preset="wd-spikingformer-tiny", batch=2, context=16, steps=1)
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    seen = {}
    run = SCRIPT["subprocess"].run

    def watched(*arguments: object, env: dict[str, str], **options: object) -> object:
        seen.update(env)
        return run(*arguments, env=env, **options)

    monkeypatch.setattr(SCRIPT["subprocess"], "run", watched)
    measured = SCRIPT["measure"](request, "brief", 2)
    assert measured["tokens_per_second"] > 0
    assert seen["GOMP_SPINCOUNT"] == "1000"
    assert "OMP_WAIT_POLICY" not in seen
    assert os.environ["OMP_WAIT_POLICY"] == "active"
