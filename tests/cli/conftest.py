"""The command line run in this process, and tiny models that it trained."""

from __future__ import annotations

import json
import logging
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest
import rich

from spikeformers.cli import main
from spikeformers.cli._waiting import WAITING

WORDS = ["the", "spike", "of", "a", "neuron", "wins", "or", "loses", "and", "all", "is", "quiet"]
SMALL = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "context": 32, "batch_size": 4, "steps": 6, "eval_batches": 2, "log_every": 1,
    "learning_rate": 0.01, "device": "cpu",
}  # fmt: skip


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Run(Protocol):
    def __call__(self, *arguments: object) -> Ended: ...


def sets(**changes: object) -> list[str]:
    """``--set key=value`` for the smallest of runs."""
    merged = SMALL | changes
    return [part for key, value in merged.items() for part in ("--set", f"{key}={value}")]


@pytest.fixture(autouse=True)
def undisturbed() -> Iterator[None]:
    """Put back what the command line sets for its process: log handlers, console, environment."""
    logger = logging.getLogger("spikeformers")
    waiting = {name: os.environ.get(name) for name in WAITING}
    before = (logger.level, logger.propagate, list(logger.handlers))
    yield
    logger.level, logger.propagate, logger.handlers = before
    logger.setLevel(before[0])
    rich.reconfigure(stderr=False)
    for name, value in waiting.items():
        if value is None:
            os.environ.pop(name, None)


def execute(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    code = ended.value.code
    return code if isinstance(code, int) else 0 if code is None else 1


@pytest.fixture
def spikeformers(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """``spikeformers("info", folder)`` runs the verb and gives code, out and err."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> Ended:
        capsys.readouterr()
        code = execute(*arguments)
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return run


def write_text(folder: Path, documents: int = 20, words: int = 150) -> Path:
    draw = random.Random(7)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(documents):
        (folder / f"{number:02}.txt").write_text(" ".join(draw.choices(WORDS, k=words)))
    return folder


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of twenty small documents."""
    return write_text(tmp_path_factory.mktemp("text") / "text")


@pytest.fixture(scope="session")
def tiny() -> Callable[..., list[str]]:
    """``tiny(steps=9)``: the --set options of a run of milliseconds, with changes."""
    return sets


def pretrained(folder: Path, text: Path, preset: str, *more: object) -> Path:
    arguments = (
        "pretrain",
        "--preset",
        preset,
        "--data",
        text,
        "--tokenizer",
        "byte",
        "--out",
        folder,
    )
    assert execute(*arguments, *sets(), *more) == 0
    return folder


@pytest.fixture(scope="session")
def causal(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    """A tiny WD-Spikingformer that `pretrain` made."""
    return pretrained(tmp_path_factory.mktemp("wd") / "run", text, "wd-spikingformer-tiny")


@pytest.fixture(scope="session")
def masked(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    """A tiny WE-Spikingformer that `pretrain` made."""
    return pretrained(tmp_path_factory.mktemp("we") / "run", text, "we-spikingformer-tiny")


@pytest.fixture(scope="session")
def control(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    """The dense twin of `causal`."""
    folder = tmp_path_factory.mktemp("twin") / "run"
    return pretrained(folder, text, "wd-spikingformer-tiny", "--control")


@pytest.fixture(scope="session")
def teacher(control: Path) -> Path:
    """A dense model that teaches."""
    return control


@pytest.fixture(scope="session")
def student(tmp_path_factory: pytest.TempPathFactory, text: Path, teacher: Path) -> Path:
    """A tiny WD-Spikingformer that `distill` made, without interruption."""
    folder = tmp_path_factory.mktemp("student") / "run"
    arguments = ("--teacher", teacher, "--student", "wd-spikingformer-tiny", "--data", text)
    assert execute("distill", *arguments, "--out", folder, *sets()) == 0
    return folder


@pytest.fixture(scope="session")
def engine_file(tmp_path_factory: pytest.TempPathFactory, causal: Path) -> Path:
    """`causal` as an engine file, which `export engine` made."""
    pytest.importorskip("spikeformers.kernels._native")
    path = tmp_path_factory.mktemp("engine") / "model.engine"
    assert execute("export", "engine", causal, "--out", path, "--weights", "fp32") == 0
    return path
