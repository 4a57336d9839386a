"""Every verb that may take long shows its progress if standard error is not a terminal."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from spikeformers import progress


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Print every line, without waiting seconds between them."""
    monkeypatch.setattr(progress, "EVERY", 0.0)


@pytest.fixture
def stages_of(spikeformers: Any) -> Any:
    """Run a verb; returns the stages that it reports, without those of reading the text."""

    def run(*arguments: object) -> set[str]:
        ended = spikeformers(*arguments)
        assert ended.code == 0, ended.err
        lines = [re.match(r"([^:]+): .*\d+ (s|min)\b", line) for line in ended.err.splitlines()]
        return {line[1] for line in lines if line} - {"reading the text", "looking at the text"}

    return run


@pytest.mark.parametrize(
    ("verb", "more", "stages"),
    [
        ("evaluate perplexity", ("--tokens", 256), {"scoring"}),
        (
            *("energy", ("--tokens", 128, "--no-measure")),
            {"counting events", "counting events of the twin"},
        ),
        pytest.param(
            *("energy", ("--tokens", 128), {"measuring on this machine"}), marks=pytest.mark.slow
        ),
        ("audit", ("--tokens", 64), {"tracing"}),
    ],
)
def test_measuring_on_a_text(stages_of, causal, text, verb, more, stages):
    assert stages <= stages_of(*verb.split(), causal, "--data", text, *more)


def test_comparing_two_models(stages_of, causal, control, text, tmp_path):
    both = ("--reference", control, "--data", text, "--tokens", 256)
    assert "comparing" in stages_of("evaluate", "agreement", causal, *both)
    page = ("--data", text, "--tokens", 128, "--out", tmp_path / "page.html")
    stages = stages_of("compare", causal, control, *page)
    assert {"timing"} < stages
    assert sum(stage.startswith("scoring, ") for stage in stages) == 2
    assert sum(stage.startswith("counting events, ") for stage in stages) == 2


def test_converting(stages_of, control, text, tmp_path):
    out = tmp_path / "spiking"
    arguments = ("--calibration", text, "--steps", 2, "--calibration-tokens", 64, "--tokens", 64)
    stages = stages_of("convert", control, *arguments, "--context", 16, "--tune", 1, "--out", out)
    assert {"calibration", "conversion", "perplexity, spiking", "energy, spiking"} <= stages
    assert {"agreement", "training"} <= stages
    assert "conversion: 4 of 4 (100 %)" in (out / progress.LOG).read_text()
    assert "steps (100 %)" in (out / "tuned" / progress.LOG).read_text()


def test_the_engine(stages_of, causal, tmp_path):
    pytest.importorskip("spikeformers.kernels._native")
    assert "packing the weights" in stages_of("export", "engine", causal, "--out", tmp_path / "e")
    few = ("--prompt-tokens", 4, "--new-tokens", 4, "--repeats", 2, "--no-peers")
    assert {"packing the weights", "turns"} <= stages_of("bench", "decode", causal, *few)


def test_training(stages_of, tiny, text, tmp_path):
    out = tmp_path / "run"
    arguments = ("--preset", "wd-spikingformer-tiny", "--tokenizer", "bpe:300", "--data", text)
    assert {"making the tokenizer", "training"} <= stages_of(
        "pretrain", *arguments, "--out", out, *tiny()
    )
    log = (out / progress.LOG).read_text().splitlines()
    assert re.search(r"training: 6 of 6 steps \(100 %\), \d+ s; loss \d\.\d+ ", log[-1])


def test_distilling(stages_of, tiny, text, teacher, tmp_path):
    arguments = ("--teacher", teacher, "--student", "wd-spikingformer-tiny", "--data", text)
    stages = stages_of("distill", *arguments, "--out", tmp_path / "run", *tiny(steps=2))
    assert "training" in stages
    assert "training: 2 of 2 steps" in (tmp_path / "run" / progress.LOG).read_text()


def test_sentences(stages_of, masked, tmp_path):
    home = tmp_path / "glue/SST-2"
    home.mkdir(parents=True)
    rows = "".join(f"{['good', 'bad'][n % 2]} film {n}\t{1 - n % 2}\n" for n in range(12))
    for split in ("train", "dev", "test"):
        (home / f"{split}.tsv").write_text("sentence\tlabel\n" + rows)
    (home / "test.tsv").write_text("index\tsentence\n0\tgood film\n")
    out = tmp_path / "runs"
    request = ("finetune", masked, "--task", "sst2", "--data-dir", tmp_path, "--out", out)
    short = ("steps=2", "batch_size=4", "context=24", "device=cpu")
    stages = stages_of(*request, *(part for pair in short for part in ("--set", pair)))
    assert {"training", "scoring dev"} <= stages
    assert "scoring dev: 12 of 12 examples" in (out / "sst2/seed-0" / progress.LOG).read_text()


def test_tasks_of_choice(stages_of, causal, tmp_path):
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")
    import pyarrow as arrow
    from pyarrow import parquet

    place: Path = tmp_path / "sets/baber/piqa/data"
    place.mkdir(parents=True)
    rows = [{"goal": "to win", "sol1": "a spike", "sol2": "all", "label": n % 2} for n in range(3)]
    parquet.write_table(arrow.Table.from_pylist(rows), place / "validation-00000-of-00001.parquet")
    request = ("evaluate", "zeroshot", causal, "--tasks", "piqa", "--data-dir", tmp_path / "sets")
    assert "piqa" in stages_of(*request, "--out", tmp_path / "scores")


def test_images(stages_of, tmp_path):
    pytest.importorskip("sklearn", reason="the digits are scikit-learn's")
    out = tmp_path / "run"
    short = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    short |= {"intermediate_size": 32, "model.steps": 2, "steps": 2, "batch_size": 8}
    sets = [part for key, value in short.items() for part in ("--set", f"{key}={value}")]
    arguments = ("--preset", "a2os2a-digits", "--data", "digits", "--out", out)
    assert "training" in stages_of("train-vision", *arguments, *sets, "--set", "device=cpu")
    assert "training: 2 of 2 steps" in (out / progress.LOG).read_text()
    request = ("evaluate", "vision", out, "--data", "digits", "--images", 32)
    assert {"classifying", "entropy"} <= stages_of(*request)
