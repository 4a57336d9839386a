"""What `compare` reads of a run, by the unit that the run counts in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spikeformers.reporting.compare_page import rows_of
from spikeformers.studies.comparison import read_run


@pytest.mark.parametrize("unit", ["token", "image"])
def test_what_was_seen_has_the_unit_of_the_run(tmp_path: Path, unit: str) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"parameters": 12345, "data": {}}))
    seen = {f"{unit}s_seen": 19200, "seconds": 40.0}
    lines = [
        {"kind": "train", "step": 300, "loss": 0.01, "density": 0.4, **seen},
        {"kind": "validation", "step": 300, "loss": 0.04, "accuracy": 0.99, **seen},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(entry)}\n" for entry in lines))
    assert rows_of([read_run(tmp_path, "mine")]) == [
        ["parameters", "12,345", ""],
        [f"{unit}s seen", "19,200", ""],
        [f"training {unit}s/s", "480", "measured"],
        ["density, last batch", "0.400", "measured"],
        [f"validation nats/{unit}", "0.040", "measured"],
        ["validation accuracy", "0.990", "measured"],
    ]
