"""A damaged run.json, checkpoint.json or metrics.jsonl on --resume: one line that names it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from .test_bad_input import one_message


@pytest.fixture
def run(causal: Path, tmp_path: Path) -> Path:
    """A copy of a run that `pretrain` finished."""
    folder = tmp_path / "run"
    shutil.copytree(causal, folder)
    return folder


def change(file: Path, *path: str, to: Any = None) -> None:
    """Set a value within a JSON file, or remove it."""
    content = json.loads(file.read_text())
    place = content
    for key in path[:-1]:
        place = place[key]
    if to is None:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("path", "to", "message"),
    [
        (("config",), None, "'config' is missing"),
        (("data",), [], "data is []; it must be a mapping"),
        (("data", "request", "preset"), None, "'preset' is missing"),
        (("data", "request", "preset"), 3, "preset is 3; it must be text"),
        (("data", "request", "source"), None, "'source' is missing"),
        (("data", "request"), 3, "holds a number where an object is needed"),
        (("model", "model_type"), None, "'model_type' is missing"),
        (("model", "hidden_size"), "wide", "hidden_size is 'wide'; it must be a whole number"),
        (("model", "hiden_size"), 3, "Did you mean 'hidden_size'?"),
        (("config", "steps"), "many", "steps is 'many'; it must be a whole number"),
        (("config", "step"), 3, "Did you mean 'steps'?"),
    ],
    ids=str,
)
def test_a_record_with_foreign_values(spikeformers, run, path, to, message):
    change(run / "run.json", *path, to=to)
    ended = spikeformers("pretrain", "--out", run, "--resume")
    one_message(ended, 1, f"{run / 'run.json'}", message)


def test_a_record_of_foreign_bytes(spikeformers, run):
    (run / "run.json").write_bytes(b"\xff\xfe")
    ended = spikeformers("pretrain", "--out", run, "--resume")
    one_message(ended, 1, "run.json cannot be read: the byte 0xff at offset 0 is not UTF-8")


def test_metrics_of_foreign_bytes(spikeformers, run):
    lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run / "metrics.jsonl").write_bytes(lines[0] + b"\xff\n")
    ended = spikeformers("pretrain", "--out", run, "--resume")
    one_message(ended, 1, "metrics.jsonl cannot be read: the byte 0xff", "move the file away")
    (run / "metrics.jsonl").write_bytes(lines[0] + b'{"kind": "train"}\n')
    ended = spikeformers("pretrain", "--out", run, "--resume")
    one_message(ended, 1, "metrics.jsonl, line 2 cannot be used: 'step' is missing")


def test_a_run_of_another_verb_names_it(spikeformers, run):
    ended = spikeformers("finetune-attention", "x", "--out", run, "--resume")
    assert ended.code == 2
    ended = spikeformers("distill", "--out", run, "--resume")
    one_message(ended, 2, f"{run} is resumed with `spikeformers pretrain`")


def test_a_stopped_run_says_how_to_resume_it_with_its_path_quoted(
    spikeformers, tiny, text, tmp_path, monkeypatch
):
    from spikeformers.training import interrupt

    monkeypatch.setattr(interrupt.Interrupt, "requested", property(lambda self: True))
    out = tmp_path / "my runs"
    arguments = ("pretrain", "--preset", "wd-spikingformer-tiny", "--tokenizer", "byte")
    ended = spikeformers(*arguments, "--data", text, "--out", out, *tiny())
    assert ended.code == 130
    assert f"continue with: spikeformers pretrain --out '{out}' --resume" in ended.err
