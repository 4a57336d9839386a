"""Whatever is wrong: one clear message, the right exit code, nothing damaged."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
from pathlib import Path

import pytest
from safetensors.torch import save_file

PRETRAIN = ("pretrain", "--preset", "wd-spikingformer-tiny", "--tokenizer", "byte")
GENERATE = ("--prompt", "the ", "--max-new-tokens", 2)


def one_message(ended: object, code: int, *message: str) -> None:
    assert ended.code == code, ended.err
    assert ended.out == ""
    assert "Traceback" not in ended.err
    assert ended.err.count("error: ") == 1
    for part in message:
        assert part in ended.err


def listing(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_missing_file(spikeformers, tmp_path):
    out = tmp_path / "run"
    ended = spikeformers(*PRETRAIN, "--data", tmp_path / "none.txt", "--out", out)
    one_message(ended, 2, "no such file or folder", "none.txt")
    assert not out.exists()


@pytest.mark.parametrize("content", ["", " \n\n\t\n"])
def test_an_empty_corpus(spikeformers, tmp_path, content):
    path, out = tmp_path / "empty.txt", tmp_path / "run"
    path.write_text(content)
    one_message(spikeformers(*PRETRAIN, "--data", path, "--out", out), 2, "empty")
    assert not out.exists()


def test_a_corpus_shorter_than_the_context(spikeformers, tiny, tmp_path):
    path, out = tmp_path / "short.txt", tmp_path / "run"
    path.write_text("only a few words\n\nand a few more\n")
    ended = spikeformers(*PRETRAIN, "--data", path, "--out", out, *tiny(context=256))
    one_message(ended, 2, "context", "256")
    assert not out.exists()


def test_an_unknown_preset(spikeformers, text, tmp_path):
    arguments = ("--preset", "wd-spikingformer-tinny", "--data", text, "--out", tmp_path / "run")
    one_message(spikeformers("pretrain", *arguments), 2, "Did you mean 'wd-spikingformer-tiny'?")


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("learning_rat=1", "Did you mean 'learning_rate'?"),
        ("num_hidden_layer=1", "Did you mean 'num_hidden_layers'?"),
        ("steps=many", "steps is 'many'"),
        ("wta=hardest", "Did you mean 'hard'?"),
        ("hidden_size=wide", "hidden_size"),
        ("hidden_size=30", "does not divide"),
        ("schedule=cosinus", "Did you mean 'cosine'?"),
    ],
)
def test_unknown_keys_and_values(spikeformers, text, tmp_path, assignment, message):
    out = tmp_path / "run"
    ended = spikeformers(*PRETRAIN, "--data", text, "--out", out, "--set", assignment)
    one_message(ended, 2, message)
    assert not out.exists()


@pytest.fixture
def broken(causal, tmp_path) -> Path:
    """A copy of a model, to be broken."""
    folder = tmp_path / "model"
    shutil.copytree(causal, folder)
    return folder


VERBS = ["info", "generate", "energy", "audit", "evaluate"]


def use(spikeformers, verb: str, model: Path, text: Path):
    more = {
        "info": ("info", model),
        "generate": ("generate", model, *GENERATE),
        "energy": ("energy", model, "--data", text),
        "audit": ("audit", model, "--data", text),
        "evaluate": ("evaluate", "perplexity", model, "--data", text),
    }
    return spikeformers(*more[verb])


@pytest.mark.parametrize("verb", VERBS)
def test_a_truncated_safetensors(spikeformers, broken, text, verb):
    file = broken / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    before = listing(broken)
    one_message(use(spikeformers, verb, broken, text), 1, "truncated")
    assert listing(broken) == before


def test_a_foreign_safetensors(spikeformers, broken, text):
    import torch

    save_file({"other.weight": torch.zeros(2)}, broken / "model.safetensors", {"format": "pt"})
    one_message(use(spikeformers, "generate", broken, text), 1, "does not belong")


def test_a_pickle_offered_as_a_model(spikeformers, broken, text):
    (broken / "model.safetensors").rename(broken / "pytorch_model.bin")
    one_message(use(spikeformers, "info", broken, text), 1, "pickles are never loaded")
    file = broken / "pytorch_model.bin"
    one_message(use(spikeformers, "generate", file, text), 1, "is a pickle")


@pytest.mark.parametrize("verb", VERBS)
def test_a_missing_model(spikeformers, text, tmp_path, verb):
    ended = use(spikeformers, verb, tmp_path / "none", text)
    one_message(ended, 1, "none")


def test_a_prompt_longer_than_the_context(spikeformers, causal):
    one_message(spikeformers("generate", causal, "--prompt", "x" * 99), 2, "99 tokens")


def test_a_loss_that_is_not_a_number(spikeformers, tiny, text, tmp_path, monkeypatch):
    from spikeformers.training import gradients

    measured = gradients.GradientStep.__call__

    def spoilt(self, step, **arguments):
        metrics = measured(self, step, **arguments)
        return metrics | {"loss": float("nan")} if step == 4 else metrics

    monkeypatch.setattr(gradients.GradientStep, "__call__", spoilt)
    out = tmp_path / "run"
    arguments = (*PRETRAIN, "--data", text, "--out", out)
    one_message(spikeformers(*arguments, *tiny(save_every=2)), 1, "step 5", "step-0000004")
    assert (out / "checkpoints" / "step-0000004" / "checkpoint.json").is_file()


def test_a_full_disk_while_checkpointing(spikeformers, tiny, text, tmp_path, monkeypatch):
    from spikeformers.training import checkpoint

    replace = os.replace

    def full(source, target):
        if "step-0000004" in str(target):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        replace(source, target)

    monkeypatch.setattr(checkpoint.os, "replace", full)
    out = tmp_path / "run"
    arguments = (*PRETRAIN, "--data", text, "--out", out)
    one_message(spikeformers(*arguments, *tiny(save_every=2)), 1, "No space left", "step-0000002")
    assert (out / "checkpoints" / "step-0000002" / "checkpoint.json").is_file()


def test_a_file_where_the_folder_should_be(spikeformers, text, tmp_path):
    out = tmp_path / "run"
    out.write_text("mine")
    one_message(spikeformers(*PRETRAIN, "--data", text, "--out", out), 2, "is a file")
    one_message(spikeformers("demo", "--out", out), 2, "is a file")
    assert out.read_text() == "mine"


def bytes_on_stdin(monkeypatch, content: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))


def test_a_prompt_of_bytes_that_are_not_utf8(spikeformers, causal, engine_file, monkeypatch):
    for model in (causal, engine_file):
        ended = spikeformers("generate", model, "--prompt", os.fsdecode(b"spike\xff"))
        one_message(ended, 2, r"the argument 'spike\xff' is not UTF-8 text (the byte 0xff)")
        bytes_on_stdin(monkeypatch, b"spike\xff")
        ended = spikeformers("generate", model, "--prompt", "-")
        one_message(ended, 2, "standard input is not UTF-8 text: byte 0xff at offset 5")


def test_a_stop_string_and_a_file_of_such_bytes(spikeformers, causal, tmp_path):
    strange = os.fsdecode(b"\x80")
    one_message(spikeformers("generate", causal, "--prompt", "a", "--stop", strange), 2, "0x80")
    one_message(spikeformers("info", tmp_path / strange), 2, r"\x80' is not UTF-8 text")


@pytest.mark.parametrize("seed", [-1, 1 << 64, 10**30])
def test_a_seed_beyond_64_bits(spikeformers, causal, text, tmp_path, seed):
    ended = spikeformers("generate", causal, "--prompt", "a", "--seed", seed)
    assert (ended.code, ended.out) == (2, "")
    assert "--seed" in ended.err
    out = tmp_path / "run"
    arguments = (*PRETRAIN, "--data", text, "--out", out, "--set", f"seed={seed}")
    one_message(spikeformers(*arguments), 2, f"seed is {seed}; it must be")
    assert not out.exists()


def test_the_largest_seed(spikeformers, causal, engine_file):
    arguments = ("--prompt", "the", "--seed", (1 << 64) - 1, "--max-new-tokens", 4, "--json")
    for model in (causal, engine_file):
        first, again = (spikeformers("generate", model, *arguments).json for _ in range(2))
        assert first["seed"] == (1 << 64) - 1
        assert again["text"] == first["text"]


@pytest.mark.parametrize("threads", [0, -1, 100_000])
def test_threads_that_cannot_be_started(spikeformers, causal, engine_file, threads):
    for model in (causal, engine_file):
        ended = spikeformers("generate", model, "--prompt", "a", "--threads", threads)
        assert (ended.code, ended.out) == (2, "")
        assert "--threads" in ended.err
    ended = spikeformers("bench", "decode", causal, "--threads", threads)
    assert (ended.code, ended.out) == (2, "")


def test_threads_of_a_recipe(spikeformers, text, tmp_path):
    arguments = (*PRETRAIN, "--data", text, "--out", tmp_path / "run", "--set", "threads=100000")
    one_message(spikeformers(*arguments), 2, "threads is 100000; it must be at most 1024")


def test_a_number_that_is_none(spikeformers, text, tmp_path):
    arguments = (*PRETRAIN, "--data", text, "--out", tmp_path / "run", "--set", "learning_rate=nan")
    one_message(spikeformers(*arguments), 2, "learning_rate is 'nan'; it must be a finite number.")


def test_data_keys_of_the_wrong_type(spikeformers, text, tmp_path):
    arguments = (*PRETRAIN, "--data", text, "--out", tmp_path / "run", "--set")
    one_message(spikeformers(*arguments, "validation_fraction=many"), 2, "it must be a number")
    one_message(spikeformers(*arguments, "text_field=[1]"), 2, "text_field is [1]; it must be text")


def test_an_unknown_key_of_a_config(spikeformers, broken):
    config = broken / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"firing_rate_weigth": 1.0}))
    ended = spikeformers("info", broken)
    one_message(ended, 1, "config.json", "'firing_rate_weigth' is not a key of a wd_spikingformer")
    assert "Did you mean 'firing_rate_weight'?" in ended.err


@pytest.mark.parametrize("verb", VERBS[1:])  # info reads no tokenizer
def test_a_tokenizer_of_an_unknown_kind(spikeformers, broken, text, verb):
    file = broken / "tokenizer.json"
    rules = json.loads(file.read_text()) | {"pre_tokenizer": {"type": "SomethingNewer"}}
    file.write_text(json.dumps(rules))
    one_message(use(spikeformers, verb, broken, text), 1, "the tokenizer cannot be read")


@pytest.mark.parametrize("verb", VERBS[1:])
def test_a_tokenizer_with_more_tokens_than_the_model(spikeformers, broken, text, verb):
    from spikeformers.data import load_corpus, make_tokenizer

    make_tokenizer("bpe:300", load_corpus(text)).save_pretrained(broken)
    ended = use(spikeformers, verb, broken, text)
    one_message(ended, 1, "its tokenizer has the token 29", "embeddings for 258 tokens")


def test_a_command_to_repeat_quotes_its_paths(spikeformers, causal, tmp_path, monkeypatch):
    pytest.importorskip("spikeformers.kernels._native")
    monkeypatch.chdir(tmp_path)
    ended = spikeformers("export", "engine", causal, "--out", "my [models]/a file")
    assert "spikeformers generate 'my [models]/a file' --prompt" in ended.out
    assert ended.code == 0
