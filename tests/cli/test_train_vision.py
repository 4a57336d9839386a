"""Images on the command line: train, resume, evaluate, count, audit, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from spikeformers.models import load_vision_model
from spikeformers.training.journal import Journal

SMALL = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
    "model.steps": 2, "steps": 6, "batch_size": 8, "learning_rate": 0.01, "log_every": 1,
    "eval_every": 3, "save_every": 2, "device": "cpu", "validation_fraction": 0.2,
}  # fmt: skip
PRESET = ("train-vision", "--preset", "a2os2a-digits")


def sets(**changes: object) -> list[str]:
    merged = SMALL | changes
    return [part for key, value in merged.items() for part in ("--set", f"{key}={value}")]


def write_npz(folder: Path, count: int = 60, size: int = 8) -> Path:
    draw = np.random.default_rng(5)
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        pixels = draw.integers(0, 90, (count, size, size)).astype(np.uint8)
        labels = np.arange(count) % 3
        pixels[np.arange(count), labels * 2] += 150
        np.savez(folder / f"{split}.npz", images=pixels, label=labels)
    return folder


def weights(folder: Path) -> dict[str, bytes]:
    return {k: v.numpy().tobytes() for k, v in load_file(folder / "model.safetensors").items()}


@pytest.fixture(scope="module")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_npz(tmp_path_factory.mktemp("images") / "stripes")


@pytest.fixture
def trained(spikeformers: Any, stripes: Path, tmp_path: Path) -> Path:
    out = tmp_path / "run"
    ended = spikeformers(*PRESET, "--data", stripes, "--out", out, *sets())
    assert ended.code == 0, ended.err
    return out


def test_a_run_leaves_a_model_and_says_what_it_ran(trained: Path) -> None:
    model = load_vision_model(trained)
    assert (model.config.model_type, model.config.num_labels) == ("spiking_vit", 3)
    record = json.loads((trained / "run.json").read_text())
    assert record["data"]["request"]["preset"] == "a2os2a-digits"
    assert record["data"]["images"]["sizes"] == {"train": 48, "validation": 12, "test": 60}
    assert (record["config"]["steps"], record["model"]["steps"]) == (6, 2)
    assert record["task"]["mixup"] == 0.0
    card = (trained / "README.md").read_text()
    assert "image-classification" in card
    assert "binary, relu, ternary" in card
    prep = json.loads((trained / "preprocessor_config.json").read_text())
    assert prep["size"] == {"height": 8, "width": 8}


def test_json_epochs_and_the_dense_twin(spikeformers: Any, stripes: Path, tmp_path: Path) -> None:
    few = sets(epochs=2)
    at = few.index("steps=6")
    del few[at - 1 : at + 1]
    out = tmp_path / "twin"
    arguments = (*PRESET, "--control", "--data", stripes, "--out", out, "--json")
    ended = spikeformers(*arguments, *few)
    assert ended.code == 0, ended.err
    assert ended.json["steps"] == 2 * 48 // 8
    assert ended.json["images_seen"] == 96
    assert set(ended.json["validation"]) == {"loss", "accuracy"}
    assert load_vision_model(out).config.model_type == "vit"


def test_ctrl_c_and_resume(
    spikeformers: Any, stripes: Path, trained: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    out, advance = tmp_path / "parts", Journal.advance

    def interrupting(self: Journal, step: int, values: Any) -> None:
        advance(self, step, values)
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "advance", interrupting)
        ended = spikeformers(*PRESET, "--data", stripes, "--out", out, *sets())
    assert ended.code == 130
    assert "spikeformers train-vision --out" in ended.err
    assert spikeformers("pretrain", "--out", out, "--resume").code == 2
    ended = spikeformers("train-vision", "--out", out, "--resume", "--set", "log_every=2")
    assert ended.code == 0, ended.err
    assert weights(out) == weights(trained)
    ended = spikeformers("train-vision", "--out", out, "--resume", "--set", "mixup=0.5")
    assert ended.code == 2
    assert "mixup was 0.0, now 0.5" in ended.err


def test_evaluate(spikeformers: Any, stripes: Path, trained: Path, tmp_path: Path) -> None:
    page = tmp_path / "page" / "report.html"
    page.parent.mkdir()
    arguments = ("evaluate", "vision", trained, "--data", stripes)
    ended = spikeformers(*arguments, "--json", "--report", page)
    assert ended.code == 0, ended.err
    result = ended.json
    confusion = np.array(result["confusion"])
    assert result["images"] == confusion.sum() == 60
    assert result["accuracy"] == confusion.diagonal().sum() / 60
    assert result["per_class"]["1"] == confusion[1, 1] / 20
    assert [(e["role"], e["kind"]) for e in result["entropy"]] == [
        ("query", "binary"), ("key", "real"), ("value", "ternary"),
    ]  # fmt: skip
    assert result["skipped"] == {}
    text = page.read_text()
    assert "Entropy of Q, K and V" in text
    assert "Do Q, K and V learn?" in text
    assert text.count("data:image/png;base64") == 4
    table = spikeformers(*arguments, "--images", 6)
    assert "6 of stripes, test" in table.out


def test_energy_audit_and_info(spikeformers: Any, stripes: Path, trained: Path) -> None:
    arguments = ("--data", stripes, "--images", 4, "--json")
    energy = spikeformers("energy", "--no-measure", trained, *arguments).json["paper"]
    assert (energy["model"]["unit"], energy["model"]["tokens"]) == ("image", 4)
    assert energy["control"]["density"] is None
    assert energy["control"]["macs_per_token"] > 0
    ended = spikeformers(
        "audit", trained, "--data", stripes, "--require", "addition-only",
        "--require", "softmax-free", "--images", 2,
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert "2 images of stripes" in ended.out
    assert (
        spikeformers("audit", trained, *arguments, "--require", "binary").code == 1
    )  # V is ternary
    described = spikeformers("info", trained, "--json").json
    points = {row["point"]: row["spike_type"] for row in described["points"]}
    assert (points["query"], points["key"], points["value"]) == ("binary", "real", "ternary")
    assert points["patches stage1"] == "binary"
    assert points["Q K^T V"] == "real"
    assert (described["attention"]["kind"], described["shape"]["image size"]) == ("a2os2a", 8)
    assert spikeformers("info", "a2os2a-imagenet-10-512").code == 0


def test_what_is_refused(
    spikeformers: Any, stripes: Path, trained: Path, text: Path, tmp_path: Path
) -> None:
    def fails(*arguments: object, code: int = 2) -> str:
        ended = spikeformers(*arguments)
        assert ended.code == code, ended.err
        return " ".join(ended.err.split())

    new = ("--out", tmp_path / "new")
    assert "no preset was named" in fails("train-vision", "--data", stripes, *new)
    assert "no images were named" in fails(*PRESET, *new)
    pretrain = ("pretrain", "--preset", "a2os2a-digits", "--data", text, *new)
    assert "use spikeformers train-vision" in fails(*pretrain)
    words = ("train-vision", "--preset", "wd-spikingformer-tiny", "--data", stripes, *new)
    assert "use spikeformers pretrain" in fails(*words)
    given = (*PRESET, "--data", stripes, *new)
    assert "Did you mean 'mixup'" in fails(*given, "--set", "mixip=1")
    assert "unknown key 'context'" in fails(*given, "--set", "context=64")
    assert "another model or image_size" in fails(*given, "--set", "image_size=16")
    assert "8 x 8 of mode L; this model" in fails(*given, "--set", "num_channels=3")
    assert "fit is 'yes'" in fails(*given, "--set", "fit='yes'")
    assert "Did you mean 'digits'" in fails(*PRESET, "--data", "digit", *new)
    assert not (tmp_path / "new").exists()
    assert "already holds a run" in fails(*PRESET, "--data", stripes, "--out", trained)
    large = write_npz(tmp_path / "large", size=12)
    assert "12 x 12 of mode L" in fails("evaluate", "vision", trained, "--data", large)
    assert spikeformers("evaluate", "vision", trained, "--data", large, "--fit").code == 0
    read = ("evaluate", "perplexity", trained, "--data", text)
    assert "model of images" in fails(*read, code=1)


def test_a_text_model_is_no_image_classifier(
    spikeformers: Any, stripes: Path, causal: Path
) -> None:
    ended = spikeformers("evaluate", "vision", causal, "--data", stripes)
    assert ended.code == 1
    assert "needs a model of images" in ended.err


@pytest.mark.slow
@pytest.mark.torchrun
def test_two_processes_train_one_model(stripes: Path, tmp_path: Path) -> None:
    def command(out: Path, *more: str) -> list[str]:
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        start += ["--nproc_per_node", "2", "-m", "spikeformers", *PRESET]
        return [*start, "--data", str(stripes), "--out", str(out), "--json", *more]

    done = subprocess.run(
        command(tmp_path / "run", *sets(steps=3, ema_decay=0.5)),
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images_seen"] == 24
    assert load_vision_model(tmp_path / "run").config.num_labels == 3


def write_events(folder: Path) -> Path:
    """N-MNIST's format: a class is a row of the sensor that fires in each tenth of a second."""
    for split, count in (("Train", 8), ("Test", 3)):
        for label in range(2):
            place = folder / split / str(label)
            place.mkdir(parents=True)
            for number in range(count):
                events = [
                    (x, 4 + 20 * label, 7 * x + number + 100 * part)
                    for part in range(4)
                    for x in range(4, 30)
                ]
                coded = [(x, y, 128 | (t >> 16), (t >> 8) & 255, t & 255) for x, y, t in events]
                (place / f"{number}.bin").write_bytes(bytes(b for row in coded for b in row))
    return folder


def test_recordings_of_events_are_trained_on_measured_and_audited(
    spikeformers: Any, tmp_path: Path
) -> None:
    pytest.importorskip("tonic")
    events, out = write_events(tmp_path / "NMNIST"), tmp_path / "run"
    small = sets(**{"model.steps": 3, "sps_stages": 2, "batch_size": 4, "steps": 8})
    request = ("train-vision", "--preset", "a2os2a-nmnist", "--data", events, "--out", out)
    ended = spikeformers(*request, *small, "--json")
    assert ended.code == 0, ended.err
    assert ended.json["images_seen"] == 8 * 4
    measured = spikeformers("evaluate", "vision", out, "--data", events, "--json").json
    assert measured["images"] == 6
    assert sum(map(sum, measured["confusion"])) == 6
    energy = spikeformers("energy", out, "--data", events, "--no-measure", "--json")
    assert energy.code == 0, energy.err
    assert spikeformers("info", out).code == 0
    refused = spikeformers(*request[:-1], tmp_path / "twin", "--control", *small)
    assert refused.code == 2
    assert "no dense twin" in refused.err
    model = load_vision_model(out)
    assert (model.config.frames, model.config.steps) == (True, 3)
