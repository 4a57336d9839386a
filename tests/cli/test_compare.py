"""``spikeformers compare``."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest


def zeroshot(folder: Path, right: list[int], digest: str = "d", limit: int | None = None) -> None:
    n = len(right)
    value = sum(right) / n
    acc = {"value": value, "stderr": 0.1, "chance": 0.5, "majority": 0.6,
           "at_chance": abs(value - 0.5) <= 0.2}  # fmt: skip
    result = {"metrics": {"acc": acc}, "samples": {"acc": right}, "docs_sha256": digest,
             "limit": limit}  # fmt: skip
    folder.mkdir(exist_ok=True, parents=True)
    text = json.dumps({"tasks": {"piqa": result}})
    (folder / f"zeroshot-piqa{'.limit' if limit else ''}.json").write_text(text)


def sentences(folder: Path, seed: int, guess: list[int], labels: list[int]) -> None:
    accuracy = sum(a == b for a, b in zip(guess, labels, strict=True)) / len(labels)
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps({
        "kind": "sentences", "task": "sst2", "seed": seed,
        "dev": {"loss": 1.0, "accuracy": accuracy}, "dev_majority": {"accuracy": 0.6},
        "data_sha256": "s", "labels": {"dev": labels}, "predictions": {"dev": guess},
    }))  # fmt: skip


@pytest.fixture
def runs(causal: Path, control: Path, tmp_path: Path) -> tuple[Path, Path]:
    dense_copy = shutil.copytree(control, tmp_path / "dense")
    two = shutil.copytree(causal, tmp_path / "spiking")
    zeroshot(dense_copy / "evaluations", [1] * 30 + [0] * 10)
    zeroshot(two / "evaluations", [1] * 10 + [0] * 10 + [1] * 10 + [0] * 10)
    zeroshot(two / "evaluations", [1], limit=1)  # a part: never compared
    labels = [0, 1] * 10
    for seed in (0, 1):
        sentences(dense_copy / f"sst2/seed-{seed}", seed, labels, labels)
        sentences(two / f"sst2/seed-{seed}", seed, [0] * 20, labels)
    return dense_copy, two


def test_page_table_and_differences(spikeformers: Any, runs: Any, tmp_path: Path) -> None:
    out = tmp_path / "out/report.html"
    ended = spikeformers("compare", *runs, "--out", out, "--json")
    assert ended.code == 0, ended.err
    rows = {row[0]: row[1:] for row in ended.json["rows"]}
    assert rows["piqa, acc (chance 50.0, majority 60.0)"] == [
        "75.0 ± 10.0",
        "50.0 ± 10.0*",
        "measured",
    ]
    assert rows["sst2 dev, accuracy (majority 60.0)"] == ["100.0 ± 0.0", "50.0 ± 0.0", "measured"]
    assert rows["tokens seen"] == ["768", "768", ""]
    first, second = ended.json["differences"]
    assert (first["what"], first["model"]) == ("piqa, acc", "spiking")
    assert first["difference"] == pytest.approx(-0.25)
    assert first["low"] < -0.25 < first["high"] < 0
    assert second["difference"] == pytest.approx(-0.5)
    assert second["clear"]
    table = list(csv.reader((tmp_path / "out/report.csv").open()))
    assert table[0] == ["", "dense", "spiking", ""]
    assert table[1:] == ended.json["rows"]
    assert (
        "| piqa, acc (chance 50.0, majority 60.0) | 75.0 ± 10.0 |"
        in (tmp_path / "out/report.md").read_text()
    )
    page = out.read_text()
    assert page.count("<img ") == 2
    assert "within two standard errors of chance" in page


def test_measured_on_a_text(spikeformers: Any, runs: Any, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    ended = spikeformers("compare", *runs, "--names", "A,B", "--out", out, "--data", text,
                         "--tokens", 256, "--json")  # fmt: skip
    assert ended.code == 0, ended.err
    first, second = (model["figures"] for model in ended.json["models"])
    assert "density" not in first
    assert 0 < second["density"] < 1
    assert second["nJ/token"] < first["nJ/token"]
    for figures in (first, second):
        assert figures["writing tokens/s"] > 0
        assert 1 < figures["measured bits/byte"] < 12


def test_other_rows_are_not_compared(spikeformers: Any, runs: Any, tmp_path: Path) -> None:
    zeroshot(runs[1] / "evaluations", [1, 0], digest="other")
    ended = spikeformers("compare", *runs, "--out", tmp_path / "r.html")
    assert "not comparable: scored on other rows" in ended.out


def test_refusals(spikeformers: Any, runs: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for message, arguments in (
        ("at least two runs", (runs[0],)),
        ("must end in .html", (*runs, "--out", tmp_path / "r.pdf")),
        ("1 names for 2 runs", (*runs, "--names", "A")),
        ("give different ones", (runs[0], runs[0])),
        ("contains no run", (runs[0], tmp_path / "empty")),
        ("is not a folder", (runs[0], tmp_path / "none")),
    ):
        ended = spikeformers("compare", *arguments)
        assert (ended.code, ended.out) == (2, "")
        assert message in ended.err
