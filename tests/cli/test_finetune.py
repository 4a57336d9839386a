"""``spikeformers finetune`` and ``evaluate glue``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

QUICK = [part for pair in ("steps=4", "batch_size=4", "context=24", "device=cpu", "log_every=2")
         for part in ("--set", pair)]  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> Path:
    home = tmp_path / "glue/SST-2"
    home.mkdir(parents=True)
    rows = "".join(f"{['good', 'bad'][n % 2]} film {n}\t{1 - n % 2}\n" for n in range(12))
    for split in ("train", "dev"):
        (home / f"{split}.tsv").write_text("sentence\tlabel\n" + rows)
    (home / "test.tsv").write_text("index\tsentence\n0\tgood film\n")
    return tmp_path


def test_runs_summary_and_resume(
    spikeformers: Any, masked: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "runs"
    request = ("finetune", masked, "--task", "sst2", "--data-dir", data, "--out", out, *QUICK)
    ended = spikeformers(*request, "--seeds", 2, "--json")
    assert ended.code == 0, ended.err
    result = ended.json["tasks"]["sst2"]["metrics"]["accuracy"]
    assert result["seeds"] == 2
    assert len(ended.json["runs"]) == 2
    assert ended.json["runs"][0]["started_from"] == str(masked)
    assert (out / "sst2/seed-1/SST-2.tsv").read_text().startswith("index\tprediction\n0\t")
    assert json.loads((out / "glue.json").read_text()) == ended.json
    _, front, card = (out / "sst2/seed-0/README.md").read_text().split("---\n")
    (evaluated,) = yaml.safe_load(front)["model-index"][0]["results"]
    accuracy = ended.json["runs"][0]["dev"]["accuracy"]
    assert evaluated["dataset"]["config"] == "sst2"
    assert evaluated["metrics"][0]["value"] == round(accuracy, 4)
    assert f"| accuracy | {100 * accuracy:.1f} | 50.0 |" in card
    assert "12 train, 12 dev, 1 test" in card
    read = spikeformers("evaluate", "glue", out)
    assert "1 of 8: sst2" in read.out
    assert "selection on the dev set: none" in read.out
    again = spikeformers("evaluate", "glue", out, "--again", "--data-dir", data, "--json")
    assert again.json["tasks"] == ended.json["tasks"]
    more = spikeformers(*request, "--seeds", 3, "--resume", "--json")
    assert more.json["tasks"]["sst2"]["metrics"]["accuracy"]["seeds"] == 3
    taken = spikeformers(*request)
    assert taken.code == 2
    assert "already holds a run" in taken.err


def test_refusals(
    spikeformers: Any, causal: Path, masked: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "runs"
    given = ("--data-dir", data, "--out", out)
    for code, message, arguments in (
        (2, "unknown task 'sst3'. Did you mean", ("finetune", masked, "--task", "sst3", *given)),
        (
            2,
            "only fields of TrainConfig",
            ("finetune", masked, "--task", "sst2", *given, "--set", "levels=4"),
        ),
        (
            2,
            "--seeds sets how many",
            ("finetune", masked, "--task", "sst2", *given, "--set", "seed=4"),
        ),
        (2, "does not predict masked tokens", ("finetune", causal, "--task", "sst2", *given)),
        (2, "no finished run", ("evaluate", "glue", tmp_path)),
    ):
        ended = spikeformers(*arguments)
        assert (ended.code, ended.out) == (code, "")
        assert message in ended.err
    assert not out.exists()
