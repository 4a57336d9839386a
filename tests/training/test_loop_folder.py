"""A run folder: held by one process, resumed past damage, refused for another tokenizer's text."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from spikeformers.data import load_corpus, make_tokenizer, tokenize_corpus
from spikeformers.errors import DataError, UsageError
from spikeformers.training import train
from spikeformers.training.checkpoint import checkpoints
from spikeformers.training.journal import read_metrics

TIMES = ("seconds", "tokens_per_second")


def lines(out: Path) -> list[dict[str, Any]]:
    """The metrics, without what the clock says."""
    entries = read_metrics(out / "metrics.jsonl")
    return [{k: v for k, v in line.items() if k not in TIMES} for line in entries]


def test_a_run_whose_last_checkpoint_is_damaged_resumes_exactly_from_the_one_before(
    tmp_path: Path, fresh: Any, config: Any
) -> None:
    out, whole = tmp_path / "run", tmp_path / "whole"
    train(*fresh("wd"), whole, config(), progress=False)

    def interrupt(step: int, _: object) -> None:
        if step == 5:
            os.kill(os.getpid(), signal.SIGINT)

    train(*fresh("wd"), out, config(), progress=False, on_step=interrupt)
    (shard,) = checkpoints(out / "checkpoints")[-1].glob("*.safetensors")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    steps: list[int] = []
    train(
        *fresh("wd", seed=1), out, config(),
        resume=True, progress=False, on_step=lambda step, _: steps.append(step),
    )  # fmt: skip
    assert steps == [5, 6]  # from step 4
    expected = load_file(whole / "model.safetensors")
    tensors = load_file(out / "model.safetensors")
    assert all(torch.equal(value, tensors[name]) for name, value in expected.items())
    assert lines(out) == lines(whole)


def test_a_folder_that_another_process_holds_is_refused_and_left_alone(
    tmp_path: Path, fresh: Any, config: Any
) -> None:
    out = tmp_path / "run"
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom spikeformers.storage import run_lock\n"
        "with run_lock(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        for resume in (False, True):
            with pytest.raises(UsageError, match=f"is being written by process {holder.pid} on"):
                train(*fresh("wd"), out, config(), resume=resume, progress=False)
        assert [path.name for path in out.iterdir()] == ["run.lock"]
        holder.kill()
    assert train(*fresh("wd"), out, config(steps=1), progress=False).steps == 1
    assert not (out / "run.lock").exists()


def test_a_second_ctrl_c_and_an_error_let_go_of_the_folder(
    tmp_path: Path, fresh: Any, config: Any
) -> None:
    for error in (KeyboardInterrupt, ZeroDivisionError):
        out = tmp_path / error.__name__

        def fail(step: int, _: object, out: Path = out, error: Any = error) -> None:
            assert (out / "run.lock").is_file()
            raise error

        with pytest.raises(error):
            train(*fresh("wd"), out, config(), progress=False, on_step=fail)
        assert (out / "run.json").is_file()
        assert not (out / "run.lock").exists()


def test_tokens_of_another_tokenizer_are_refused_before_a_batch_is_drawn(
    tmp_path: Path, fresh: Any, config: Any, causal: Any, corpus_text: Any
) -> None:
    wide = make_tokenizer("byte")
    wide.add_tokens(["the spike"])
    corpus = load_corpus(str(corpus_text(tmp_path / "text")))
    store = tokenize_corpus(corpus, wide, tmp_path / "cache")
    assert store.split("train").largest_id == len(causal.tokenizer)
    model, _, tokenizer = fresh("wd")
    messages = f"the train text holds the token id {len(tokenizer)}, and the model's vocabulary is"
    with pytest.raises(DataError, match=messages):
        train(model, store, tokenizer, tmp_path / "run", config(), progress=False)
    assert not (tmp_path / "run").exists()
