"""run.json, checkpoint.json and metrics.jsonl, as --resume and the pages read them."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from spikeformers.cli import main
from spikeformers.evaluation import context_of
from spikeformers.models import build_config, load_model
from spikeformers.runs.distillation import reopen as reopen_distillation
from spikeformers.runs.pretraining import reopen
from spikeformers.runs.recipe import Recipe
from spikeformers.runs.tuning import reopen as reopen_tuning
from spikeformers.runs.vision import reopen as reopen_vision
from spikeformers.studies.comparison import read_run
from spikeformers.studies.gather import loss_curve
from spikeformers.training import TrainConfig
from spikeformers.training.checkpoint import checkpoints, read_record
from spikeformers.training.distributed import World
from spikeformers.training.journal import truncate
from spikeformers.training.run_folder import open_run, run_record

from .conftest import Survive, change_json, change_lines

WORDS = ["the", "spike", "of", "a", "neuron", "wins", "or", "loses"]
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "context": 16,
         "batch_size": 2, "steps": 2, "log_every": 1, "eval_batches": 1,
         "device": "cpu"}  # fmt: skip
VISION = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "batch_size": 4,
          "steps": 1, "intermediate_size": 16, "eval_batches": 1, "device": "cpu"}  # fmt: skip


def run(*arguments: object, values: dict[str, Any]) -> None:
    given = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
    with pytest.raises(SystemExit) as ended:
        main([str(value) for value in (*arguments, *given)])
    assert not ended.value.code


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run of each verb that writes one."""
    base = tmp_path_factory.mktemp("runs")
    draw = random.Random(7)
    (base / "text").mkdir()
    for number in range(12):
        (base / "text" / f"{number}.txt").write_text(" ".join(draw.choices(WORDS, k=60)))
    text = ("--data", base / "text")
    preset = ("--preset", "wd-spikingformer-tiny")
    run("pretrain", *preset, "--tokenizer", "byte", *text, "--out", base / "pretrain", values=SMALL)
    run("pretrain", *preset, "--tokenizer", "byte", *text, "--control", "--out", base / "twin",
        values=SMALL)  # fmt: skip
    run("distill", "--teacher", base / "twin", "--student", "wd-spikingformer-tiny", *text,
        "--out", base / "distill", values=SMALL)  # fmt: skip
    run("train-vision", "--preset", "a2os2a-digits", "--data", "digits", "--out", base / "vision",
        values=VISION)  # fmt: skip
    run("convert", base / "twin", "--calibration", base / "text", "--steps", 4, "--out",
        base / "converted", "--calibration-tokens", 64, "--tokens", 64, values={})  # fmt: skip
    tuning = {"steps": 1, "batch_size": 2, "context": 16, "eval_batches": 1, "device": "cpu"}
    run("finetune-attention", base / "converted", *text, "--out", base / "tune", values=tuning)
    names = ("pretrain", "distill", "vision", "tune")
    return {name: base / name for name in names}


@contextmanager
def changed(file: Path) -> Iterator[bytes]:
    content = file.read_bytes()
    yield content
    file.write_bytes(content)


REOPEN: dict[str, tuple[Callable[[Path], Any], float]] = {
    "pretrain": (lambda out: reopen(out, Recipe()), 1.0),
    "vision": (lambda out: reopen_vision(out, Recipe()), 0.5),
    "distill": (lambda out: reopen_distillation(out, Recipe()), 0.3),
    "tune": (lambda out: reopen_tuning(out, {}), 0.3),
}


@pytest.mark.parametrize("verb", list(REOPEN))
def test_run_record(survive: Survive, runs: dict[str, Path], verb: str) -> None:
    file = runs[verb] / "run.json"
    resume, share = REOPEN[verb]

    def use(mutant: bytes) -> None:
        file.write_bytes(mutant)
        resume(runs[verb])

    with changed(file) as content:
        came = survive(content, change_json, use, share=share)
    assert came["refused"]


def test_run_record_beside_a_new_one(survive: Survive, runs: dict[str, Path]) -> None:
    folder = runs["pretrain"]
    file = folder / "run.json"
    torch.manual_seed(0)
    model, _ = load_model(folder)
    record = run_record(model, {"corpus": {}}, TrainConfig())

    def use(mutant: bytes) -> None:
        file.write_bytes(mutant)
        context_of(model)
        read_run(folder, "x")
        open_run(folder, record, World(0, 1, torch.device("cpu"), "single"), resume=True)

    with changed(file) as content:
        survive(content, change_json, use)


def test_checkpoint_record(survive: Survive, runs: dict[str, Path]) -> None:
    (path,) = checkpoints(runs["pretrain"] / "checkpoints")[-1:]
    file = path / "checkpoint.json"

    def use(mutant: bytes) -> None:
        file.write_bytes(mutant)
        read_record(path)

    with changed(file) as content:
        came = survive(content, change_json, use)
    assert came["refused"]


@pytest.mark.parametrize("verb", ["pretrain", "vision"])
def test_metrics(survive: Survive, runs: dict[str, Path], verb: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(runs[verb] / "run.json", folder)
    file = folder / "metrics.jsonl"

    def use(mutant: bytes) -> None:
        file.write_bytes(mutant)
        read_run(folder, "x")
        if verb == "pretrain":
            loss_curve("x", folder)
        truncate(file, 1)

    came = survive((runs[verb] / "metrics.jsonl").read_bytes(), change_lines, use)
    assert came["refused"]
    assert came["fine"]


def test_the_config_of_a_run_is_the_presets(runs: dict[str, Path]) -> None:
    made = reopen(runs["pretrain"], Recipe())
    assert made.model.config.hidden_size == 16
    assert made.model.config.levels == build_config("wd-spikingformer-tiny", 259).levels
