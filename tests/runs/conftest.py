"""Texts, images and tiny runs made from Python; and the verbs, to compare them with."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rich
from safetensors.torch import load_file

from spikeformers import runs
from spikeformers.cli import main
from spikeformers.cli._waiting import WAITING
from spikeformers.training.journal import Journal

WORDS = ["the", "spike", "of", "a", "neuron", "wins", "or", "loses", "and", "all", "is", "quiet"]
SMALL: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "context": 32, "batch_size": 4, "steps": 6, "eval_batches": 2, "log_every": 1,
    "learning_rate": 0.01, "device": "cpu",
}  # fmt: skip


class Listener:
    """Keeps what a run reports."""

    def __init__(self) -> None:
        self.stages: dict[str, tuple[int, int | None, str]] = {}
        self.messages: list[str] = []

    def __call__(
        self, stage: str, done: int, total: int | None, *, unit: str = "", shown: str = ""
    ) -> None:
        self.stages[stage] = (done, total, unit)

    @property
    def callbacks(self) -> dict[str, Any]:
        return {"progress": self, "on_message": self.messages.append}


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture(autouse=True)
def undisturbed() -> Iterator[None]:
    """Each test starts as a fresh process would, and leaves nothing that the command line set."""
    logger = logging.getLogger("spikeformers")
    waiting = {name: os.environ.get(name) for name in WAITING}
    before = (logger.level, logger.propagate, list(logger.handlers))
    logger.setLevel(logging.NOTSET)
    logger.propagate, logger.handlers = True, []
    yield
    logger.propagate, logger.handlers = before[1:]
    logger.setLevel(before[0])
    rich.reconfigure(stderr=False)
    for name, value in waiting.items():
        if value is None:
            os.environ.pop(name, None)


def assignments(values: dict[str, Any]) -> list[str]:
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


def verb(*arguments: object) -> None:
    """Run a verb of the command line, which must succeed."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert not ended.value.code


def weights(folder: Path) -> dict[str, bytes]:
    return {k: v.numpy().tobytes() for k, v in load_file(folder / "model.safetensors").items()}


def files_of(folder: Path) -> set[str]:
    """Relative paths of all files of a run, except TensorBoard's, whose names contain the time."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(path) for path in paths if "tensorboard" not in path.parts}


def record(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return content


def same_runs(first: Path, second: Path) -> None:
    """Two run folders hold the same files, the same record and the same weights."""
    assert files_of(first) == files_of(second)
    assert record(first) == record(second)
    assert weights(first) == weights(second)
    cards = [(folder / "README.md").read_text().splitlines() for folder in (first, second)]
    timed = [[line for line in card if "(measured)" not in line] for card in cards]
    assert timed[0] == [line.replace(second.name, first.name) for line in timed[1]]


@contextmanager
def interrupted_at(last_step: int) -> Iterator[None]:
    """Training gets Ctrl-C in that step."""
    advance = Journal.advance

    def interrupting(self: Journal, step: int, values: Any) -> None:
        advance(self, step, values)
        if step == last_step:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Journal, "advance", interrupting)
        yield


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of twenty small documents."""
    folder = tmp_path_factory.mktemp("text") / "text"
    folder.mkdir()
    draw = random.Random(7)
    for number in range(20):
        (folder / f"{number:02}.txt").write_text(" ".join(draw.choices(WORDS, k=150)))
    return folder


@pytest.fixture(scope="session")
def causal(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    """A tiny WD-Spikingformer that `pretrain` made."""
    out = tmp_path_factory.mktemp("wd") / "run"
    runs.pretrain("wd-spikingformer-tiny", out=out, data=text, tokenizer="byte", settings=SMALL)
    return out


@pytest.fixture(scope="session")
def twin(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    """Its dense twin."""
    out = tmp_path_factory.mktemp("twin") / "run"
    runs.pretrain(
        "wd-spikingformer-tiny", out=out, data=text, tokenizer="byte", settings=SMALL, control=True
    )
    return out


@pytest.fixture(scope="session")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of three kinds of stripes."""
    folder = tmp_path_factory.mktemp("images") / "stripes"
    folder.mkdir()
    draw = np.random.default_rng(5)
    for split in ("train", "test"):
        pixels = draw.integers(0, 90, (60, 8, 8)).astype(np.uint8)
        labels = np.arange(60) % 3
        pixels[np.arange(60), labels * 2] += 150
        np.savez(folder / f"{split}.npz", images=pixels, label=labels)
    return folder


@pytest.fixture(scope="session")
def sst2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a SST-2 of twelve films."""
    folder = tmp_path_factory.mktemp("glue")
    home = folder / "SST-2"
    home.mkdir()
    rows = "".join(f"{['good', 'bad'][n % 2]} film {n}\t{1 - n % 2}\n" for n in range(12))
    for split in ("train", "dev"):
        (home / f"{split}.tsv").write_text("sentence\tlabel\n" + rows)
    (home / "test.tsv").write_text("index\tsentence\n0\tgood film\n")
    return folder
