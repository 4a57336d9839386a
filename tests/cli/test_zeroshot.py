"""``spikeformers evaluate zeroshot``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

ROWS = [
    {"goal": "to win", "sol1": "the spike", "sol2": "the neuron of all", "label": n % 2}
    for n in range(4)
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    import pyarrow as arrow
    from pyarrow import parquet

    place = tmp_path / "sets/baber/piqa/data"
    place.mkdir(parents=True)
    parquet.write_table(arrow.Table.from_pylist(ROWS), place / "validation-00000-of-00001.parquet")
    return tmp_path / "sets"


def test_table_file_and_json(spikeformers: Any, causal: Path, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")
    model = shutil.copytree(causal, tmp_path / "model")
    request = ("evaluate", "zeroshot", model, "--tasks", "piqa", "--data-dir", data)
    ended = spikeformers(*request, "--batch-size", 4)
    assert ended.code == 0
    assert "at chance" in ended.out
    assert "0.5000" in ended.out
    written = json.loads((model / "evaluations/zeroshot-piqa.json").read_text())
    assert written["tasks"]["piqa"]["documents"] == 4
    card = (model / "README.md").read_text()
    assert card.count("## Zero-shot scores") == 1
    assert "| piqa (4, validation) | acc | 50.0 ± 28.9 | 50.0 | 50.0 | at chance |" in card
    assert card.startswith((causal / "README.md").read_text().rstrip())
    ended = spikeformers(*request, "--batch-size", 4, "--limit", 3, "--json")
    assert (
        ended.json["tasks"]["piqa"]["samples"]["acc"]
        == (written["tasks"]["piqa"]["samples"]["acc"][:3])
    )
    assert (model / "evaluations/zeroshot-piqa.limit-3.json").is_file()
    assert (
        model / "README.md"
    ).read_text() == card  # partial results are not shown, and nothing twice


def test_the_weights_are_read_in_the_precision_asked_for(
    spikeformers: Any, causal: Path, data: Path, tmp_path: Path
) -> None:
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")
    request = ("evaluate", "zeroshot", causal, "--tasks", "piqa", "--data-dir", data, "--json")
    request += ("--out", tmp_path)
    plain, half = (spikeformers(*request, *more).json for more in ((), ("--dtype", "bf16")))
    assert (plain["model"]["dtype"], half["model"]["dtype"]) == ("float32", "bfloat16")
    assert half["tasks"]["piqa"]["documents"] == 4
    ended = spikeformers(*request, "--dtype", "int8")
    assert ended.code == 2
    assert "it must be one of auto, fp32, bf16, fp16" in ended.err


def test_refusals(
    spikeformers: Any, causal: Path, masked: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = spikeformers("evaluate", "zeroshot", causal, "--tasks", "pica")
    assert (ended.code, ended.out) == (2, "")
    assert "unknown zero-shot task 'pica'. Did you mean 'piqa'?" in ended.err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    ended = spikeformers("evaluate", "zeroshot", causal, "--tasks", "piqa")
    assert ended.code == 2
    assert "pip install 'spikeformers[eval]'" in ended.err


def test_more_refusals(spikeformers: Any, causal: Path, masked: Path, data: Path) -> None:
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")
    ended = spikeformers("evaluate", "zeroshot", causal, "--tasks", "piqa", "--batch-size", "many")
    assert ended.code == 2
    assert "it must be auto, or a number from 1" in ended.err
    ended = spikeformers("evaluate", "zeroshot", masked, "--tasks", "piqa", "--data-dir", data)
    assert ended.code == 2
    assert "predicts masked tokens" in ended.err
    ended = spikeformers("evaluate", "zeroshot", causal, "--tasks", "sciq")
    assert ended.code == 1
    assert "Give a folder with them: --data-dir DIR" in ended.err


def test_the_engine_scores_as_pytorch_does(
    spikeformers: Any, causal: Path, data: Path, tmp_path: Path
) -> None:
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")
    pytest.importorskip("spikeformers.kernels._native")
    file = tmp_path / "fp32.engine"
    spikeformers("export", "engine", causal, "--out", file, "--weights", "fp32")
    request = ("--tasks", "piqa", "--data-dir", data, "--json")
    expected = spikeformers(
        "evaluate", "zeroshot", causal, *request, "--out", tmp_path / "one"
    ).json
    for arguments in ((causal, "--engine", "--threads", 1), (file, "--out", tmp_path / "two")):
        result = spikeformers("evaluate", "zeroshot", *arguments, *request).json
        assert result["tasks"]["piqa"]["samples"] == expected["tasks"]["piqa"]["samples"]
        assert (result["model"]["class"], result["settings"]["device"]) == ("Engine", "engine")
    assert (tmp_path / "two/zeroshot-piqa.json").is_file()
    for more, values in (
        (("--device", "cuda"), "on the CPU"),
        (("--dtype", "bf16"), "--dtype bf16 does not apply to it"),
        (("--cached",), "--cached is for"),
    ):
        ended = spikeformers("evaluate", "zeroshot", file, *request, *more)
        assert ended.code == 2
        assert values in ended.err


def test_ctrl_c_and_the_same_command_again(
    spikeformers: Any, causal: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")
    from spikeformers.evaluation.zeroshot.scorer import SpikeformersLM

    monkeypatch.setenv("SPIKEFORMERS_CACHE", str(tmp_path / "cache"))
    score, calls = SpikeformersLM._score, []

    def counted(self: Any, batch: Any) -> Any:
        calls.append(len(batch))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return score(self, batch)

    monkeypatch.setattr(SpikeformersLM, "_score", counted)
    request = ("evaluate", "zeroshot", causal, "--tasks", "piqa", "--data-dir", data,
             "--batch-size", 1, "--out", tmp_path / "out")  # fmt: skip
    ended = spikeformers(*request)
    assert (ended.code, ended.out) == (130, "")
    assert "Stopped in piqa; the same command continues from there." in ended.err
    assert not (tmp_path / "out").exists()
    assert spikeformers(*request).code == 0
    assert len(calls) == 3  # two inputs in all: the first was not scored again
