"""A folder in which the commands of README and docs find the models and texts that they name."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from spikeformers.cli import main

WORDS = ["the", "spike", "of", "a", "neuron", "wins", "or", "loses", "and", "all", "is", "quiet"]
SHAPE = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
TOY: dict[str, object] = {
    **SHAPE,
    **{"context": 32, "batch_size": 2, "steps": 2, "eval_batches": 1, "log_every": 1},
    **{"device": "cpu", "tokenizer": "byte"},
}
IMAGES: dict[str, object] = {
    **SHAPE,
    **{"intermediate_size": 32, "sps_stages": 2, "sps_pools": 1, "model.steps": 2, "steps": 2},
    **{"batch_size": 2, "validation_fraction": 0.3, "device": "cpu", "randaugment": 0, "crop": 0},
    **{"flip": "false", "erasing": 0, "mixup": 0, "eval_batches": 1},
}
TEMPLATE = "{% for m in messages %}{{ m.content }} {% endfor %}"


def sets(values: dict[str, object]) -> list[str]:
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


def execute(*arguments: object) -> None:
    """Run a verb in this process; an exit code other than 0 fails."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert not ended.value.code, arguments


class Workspace:
    """Makes what a command names at its first mention, inside the present folder."""

    def __init__(self) -> None:
        self.makers: dict[str, Callable[[], None]] = {
            "my_texts/": lambda: self.texts("my_texts"),
            "my-texts/": lambda: self.texts("my-texts"),
            "my_images/": self.images,
            "sets/": self.sets,
            "top3.yaml": self.recipe,
            "runs/mine": lambda: self.pretrain("runs/mine", "wd-spikingformer-tiny"),
            "runs/twin": self.twin,
            "runs/student": lambda: self.pretrain("runs/student", "bispikclm-tiny"),
            "runs/spiking": lambda: self.convert("runs/spiking", "--attention", "cwssa"),
            "runs/smol": lambda: self.convert("runs/smol", "--threshold", "token"),
            "runs/spiking/tuned": self.tune,
            "runs/digits": lambda: self.vision("runs/digits", "a2os2a-digits", "digits"),
            "runs/images": lambda: self.vision("runs/images", "a2os2a-cifar-2-256", "cifar10"),
            "runs/nmnist": lambda: self.vision("runs/nmnist", "a2os2a-nmnist", "nmnist"),
            "mine.engine": lambda: self.pack("runs/mine", "mine.engine"),
            "smol.engine": lambda: self.pack("runs/smol", "smol.engine"),
            "mine-nir": self.nir,
            "stores/fineweb": self.store,
        }

    def need(self, name: str) -> None:
        """Make ``name`` unless it is there, or nothing that the workspace makes."""
        if name in self.makers and not Path(name).exists():
            self.makers[name]()

    def texts(self, name: str) -> None:
        draw = random.Random(7)
        Path(name).mkdir()
        for number in range(12):
            Path(name, f"{number:02}.txt").write_text(" ".join(draw.choices(WORDS, k=60)))

    def images(self) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), np.uint8)
        for number, each in enumerate(pixels):
            place = Path("my_images", f"class{number % 2}")
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(each).save(place / f"{number}.png")

    def sets(self) -> None:
        """CIFAR-10's and N-MNIST's files with a few random examples."""
        draw = np.random.default_rng(0)
        place = Path("sets/cifar-10-batches-bin")
        place.mkdir(parents=True)
        for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
            rows = draw.integers(0, 256, (4, 3073), np.uint8)
            rows[:, 0] %= 10
            rows.tofile(place / f"{name}.bin")
        for split in ("Train", "Test"):
            for label in range(10):
                folder = Path("sets/NMNIST", split, str(label))
                folder.mkdir(parents=True)
                for number in range(2):
                    events = draw.integers(0, 34, (20, 5), np.uint8)
                    events[:, 2:] = [(128 * (i % 2), i, number) for i in range(20)]
                    events.tofile(folder / f"{number}.bin")

    def store(self) -> None:
        self.need("my_texts/")
        execute("tokenize", "my_texts/", "--tokenizer", "byte", "--out", "stores/fineweb")

    def recipe(self) -> None:
        Path("top3.yaml").write_text(
            "preset: wd-spikingformer-tiny\nmodel: {wta: top_k, winners: 3}\n"
            "data: {source: my_texts/}\n"
        )
        self.need("my_texts/")

    def pretrain(self, out: str, preset: str, *more: str) -> None:
        self.need("my_texts/")
        request = ("--preset", preset, "--data", "my_texts/", "--out", out)
        execute("pretrain", *request, *more, *sets(TOY))

    def twin(self) -> None:
        self.pretrain("runs/twin", "wd-spikingformer-tiny", "--control")
        path = Path("runs/twin/tokenizer_config.json")  # a template, for --chat
        values = json.loads(path.read_text())
        path.write_text(json.dumps(values | {"chat_template": TEMPLATE}))

    def convert(self, out: str, *more: str) -> None:
        self.need("runs/twin")
        text = () if "token" in more else ("--calibration", "my_texts/")
        execute("convert", "runs/twin", *text, "--out", out, *more, *AFTER["convert"])

    def tune(self) -> None:
        self.need("runs/spiking")
        request = ("--data", "my_texts/", "--teacher", "runs/twin")
        execute("finetune-attention", "runs/spiking", *request, *AFTER["finetune-attention"])

    def vision(self, out: str, preset: str, data: str) -> None:
        self.need("sets/")
        root = () if data == "digits" else ("--root", "sets/")
        request = ("--preset", preset, "--data", data, *root, "--out", out)
        execute("train-vision", *request, *sets(IMAGES))

    def pack(self, model: str, out: str) -> None:
        self.need(model)
        execute("export", "engine", model, "--out", out)

    def nir(self) -> None:
        self.need("runs/mine")
        execute("export", "nir", "runs/mine", "--out", "mine-nir")


SHORT = [part for key in ("steps", "batch_size", "context") for part in
         ("--set", f"{key}={TOY[key]}")]  # fmt: skip
TINY = ("--tokens", "32")
AFTER: dict[str, list[str]] = {
    "pretrain": sets(TOY),
    "distill": sets({key: TOY[key] for key in TOY if key != "tokenizer"}),
    "train-vision": sets(IMAGES),
    "convert": ["--steps", "2", "--calibration-tokens", "32", *TINY],
    "finetune-attention": [*SHORT, "--set", "eval_batches=1"],
    "energy": ["--tokens", "32", "--images", "2", "--no-measure"],
    "audit": ["--tokens", "32", "--images", "2"],
    "generate": ["--max-new-tokens", "3"],
    "evaluate perplexity": list(TINY),
    "evaluate agreement": list(TINY),
    "evaluate vision": ["--images", "4"],
    "bench decode": ["--prompt-tokens", "4", "--new-tokens", "2", "--repeats", "1", "--no-peers"],
    "compare": ["--tokens", "64"],
}
"""Options that make a verb's run one of seconds; they come last, and the last one counts."""


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("commands")


@pytest.fixture(scope="session")
def workspace(place: Path) -> Workspace:
    return Workspace()


@pytest.fixture
def inside(place: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The workspace's folder as the present one; a run's own outputs are removed afterwards.

    A terminal that is read has one word and then ends.
    """
    monkeypatch.chdir(place)
    monkeypatch.setattr("sys.stdin", io.StringIO("spike\n"))
    waiting = os.environ.get("OMP_WAIT_POLICY")
    yield place
    shutil.rmtree(place / "out", ignore_errors=True)
    if waiting is None:
        os.environ.pop("OMP_WAIT_POLICY", None)
