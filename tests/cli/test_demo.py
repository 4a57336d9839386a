from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spikeformers.errors import EngineUnavailable
from spikeformers.models import load_model
from spikeformers.runs import demonstration
from spikeformers.runs.demonstration import DemoSettings
from spikeformers.training.journal import Journal

SMALL = DemoSettings(
    steps=4,
    tokenizer="byte",
    context=32,
    batch_size=4,
    model={"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
    train={"learning_rate": 1e-2, "eval_batches": 1, "device": "cpu"},
    prompt="the ",
    sentence="the spike wins",
    new_tokens=8,
)


@pytest.fixture
def demo(spikeformers, text, monkeypatch):
    """Run the verb on settings that take milliseconds."""

    def run(out: Path, *more: object):
        def small(*, seed: int, minutes: float) -> DemoSettings:
            steps = round(SMALL.steps * minutes / 5)
            return replace(SMALL, source=str(text), seed=seed, steps=steps)

        monkeypatch.setattr(demonstration, "make_settings", small)
        return spikeformers("demo", "--out", out, *more)

    return run


SIDES = ("bits_per_byte", "perplexity", "parameters", "tokens_seen", "train_seconds")
SIDES += ("energy_pj_per_token", "tokens_per_second")


def test_the_whole_demo(demo, spikeformers, tmp_path):
    pytest.importorskip("spikeformers.kernels._native")
    out = tmp_path / "demo"
    ended = demo(out, "--json")
    assert ended.code == 0, ended.err
    summary = json.loads((out / "summary.json").read_text())
    assert ended.json == summary
    for side in ("spiking", "control"):
        part = summary[side]
        assert all(isinstance(part[key], (int, float)) and part[key] > 0 for key in SIDES)
        assert part["tokens_seen"] == 4 * 4 * 32
        assert part["tokens_per_second"] == pytest.approx(512 / part["train_seconds"])
        assert part["parameters"] == load_model(out / side)[0].num_parameters()
    assert 0 < summary["spiking"]["density"] < 1
    assert "density" not in summary["control"]
    assert len(summary["corpus"]["sha256"]) == 64
    assert summary["seed"] == 0
    assert {"cores", "processor"} <= summary["machine"].keys()
    assert {"python", "torch", "spikeformers"} <= summary["versions"].keys()

    engine = summary["engine"]
    assert (engine["weights"], engine["generation_tokens_per_second"] > 0) == ("int8", True)
    assert (out / "spiking.engine").is_file()
    written = spikeformers("generate", out / "spiking.engine", "--prompt", "the ", "--json")
    assert written.json["tokens"] > 0

    page = (out / "report.html").read_text()
    assert "The engine reads only weights" in page
    assert '<a href="spiking.engine">' in page
    assert page.count("data:image/png;base64,") == 5
    assert "http://" not in page
    assert "https://" not in page
    assert ">estimated</span>" in page
    assert ">measured</span>" in page
    assert len(list((out / "pictures").glob("*.png"))) == 5

    # Again: nothing is trained, and the same is printed.
    before = (out / "spiking" / "model.safetensors").stat().st_mtime_ns
    again = demo(out)
    assert again.code == 0
    assert "--overwrite" in again.err
    for message in (
        *("validation bits per byte", "firing density", "estimated", "continues 'the '"),
        *("generation speed, engine (int8), tokens/s", "The engine reads only weights"),
    ):
        assert message in again.out
    assert "per word" not in again.out
    assert (out / "spiking" / "model.safetensors").stat().st_mtime_ns == before

    other = demo(out, "--seed", 5)
    assert other.code == 2
    assert "seed was 0, now 5" in other.err
    overwritten = demo(out, "--seed", 5, "--overwrite", "--json")
    assert overwritten.code == 0
    assert overwritten.json["seed"] == 5
    assert overwritten.json["spiking"]["bits_per_byte"] != summary["spiking"]["bits_per_byte"]


def test_without_kernels_the_demo_says_why_the_engine_did_not_run(demo, tmp_path, monkeypatch):
    def missing() -> None:
        raise EngineUnavailable("its kernels were not built.")

    monkeypatch.setattr("spikeformers.kernels.choose", missing)
    out = tmp_path / "demo"
    ended = demo(out)
    assert ended.code == 0, ended.err
    reason = "The engine did not run: its kernels were not built."
    assert reason in ended.out
    assert reason in (out / "report.html").read_text()
    assert not (out / "spiking.engine").exists()
    assert "engine (int8)" not in ended.out


def test_both_see_the_same_batches(demo, tmp_path):
    out = tmp_path / "demo"
    assert demo(out).code == 0
    records = [json.loads((out / side / "run.json").read_text()) for side in demonstration.PARTS]
    assert records[0]["config"] == records[1]["config"]
    data = [{k: v for k, v in r["data"].items() if k != "request"} for r in records]
    assert data[0] == data[1]


def test_ctrl_c_and_the_same_command_goes_on(demo, tmp_path, monkeypatch):
    whole, out = tmp_path / "whole", tmp_path / "demo"
    assert demo(whole).code == 0
    advance = Journal.advance
    calls = iter(range(99))

    def interrupting(self: Journal, step: int, values: Any) -> None:
        advance(self, step, values)
        if next(calls) == 5:  # in the dense twin
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "advance", interrupting)
        ended = demo(out)
    assert ended.code == 130
    assert "continues" in ended.err
    assert not (out / "summary.json").exists()
    ended = demo(out, "--resume", "--json")
    assert ended.code == 0, ended.err
    expected = json.loads((whole / "summary.json").read_text())
    for side in demonstration.PARTS:
        assert ended.json[side]["bits_per_byte"] == expected[side]["bits_per_byte"]


def test_a_folder_of_something_else_is_left_alone(demo, tmp_path):
    out = tmp_path / "mine"
    (out / "spiking").mkdir(parents=True)
    (out / "spiking" / "diary.txt").write_text("dear")
    for more in ((), ("--overwrite",)):
        ended = demo(out, *more)
        assert ended.code == 2
        assert "no demo wrote" in ended.err
    assert (out / "spiking" / "diary.txt").read_text() == "dear"


def test_nothing_to_resume(demo, tmp_path):
    assert demo(tmp_path / "none", "--resume").code == 2
    assert demo(tmp_path / "none", "--resume", "--overwrite").code == 2


def test_minutes_scale_the_steps():
    assert demonstration.make_settings(seed=3, minutes=5).steps == demonstration.DEMO_STEPS
    assert demonstration.make_settings(seed=3, minutes=2.5).steps == round(
        demonstration.DEMO_STEPS / 2
    )
    assert demonstration.make_settings(seed=3, minutes=0.001).steps == 1
    assert demonstration.make_settings(seed=3, minutes=5).seed == 3
