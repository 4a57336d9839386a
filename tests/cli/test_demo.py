from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def small(text: Path) -> Iterator[None]:
    """The verb's settings take milliseconds."""

    def make_settings(*, seed: int, minutes: float) -> DemoSettings:
        steps = round(SMALL.steps * minutes / 5)
        return replace(SMALL, source=str(text), seed=seed, steps=steps)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demonstration, "make_settings", make_settings)
        yield


@pytest.fixture
def demo(spikeformers, text):
    """Run the verb on small settings."""
    with small(text):
        yield lambda out, *more: spikeformers("demo", "--out", out, *more)


@pytest.fixture(scope="module")
def finished(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a demo that ran to its end."""
    out = tmp_path_factory.mktemp("finished") / "demo"
    with small(text):
        assert demonstration.demo(out) is not None
    return out


SIDES = ("bits_per_byte", "perplexity", "parameters", "tokens_seen", "train_seconds")
SIDES += ("energy_pj_per_token", "tokens_per_second")


def test_the_whole_demo(finished, spikeformers):
    pytest.importorskip("spikeformers.kernels._native")
    out = finished
    summary = json.loads((out / "summary.json").read_text())
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


def test_again_nothing_is_trained_and_the_same_is_printed(demo, finished, tmp_path):
    pytest.importorskip("spikeformers.kernels._native")
    out = tmp_path / "demo"
    shutil.copytree(finished, out)
    summary = json.loads((out / "summary.json").read_text())
    before = (out / "spiking" / "model.safetensors").stat().st_mtime_ns
    again = demo(out)
    assert again.code == 0
    assert "--overwrite" in again.err
    assert demo(out, "--json").json == summary
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


def test_both_see_the_same_batches(finished):
    records = [
        json.loads((finished / side / "run.json").read_text()) for side in demonstration.PARTS
    ]
    assert records[0]["config"] == records[1]["config"]
    data = [{k: v for k, v in r["data"].items() if k != "request"} for r in records]
    assert data[0] == data[1]


def test_ctrl_c_and_the_same_command_goes_on(demo, finished, tmp_path, monkeypatch):
    out = tmp_path / "demo"
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
    expected = json.loads((finished / "summary.json").read_text())
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
