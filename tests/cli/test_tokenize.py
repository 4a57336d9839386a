from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from spikeformers.models import load_model

WD = ("--preset", "wd-spikingformer-tiny")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    from .conftest import execute

    folder = tmp_path_factory.mktemp("tokens") / "store"
    arguments = ("tokenize", text, "--out", folder, "--tokenizer", "byte", "--shard-tokens", 5000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spikeformers.data.encoding.BATCH", 3000)
        assert execute(*arguments, "--workers", 2) == 0
    assert (folder / "train-00001.bin").exists()
    return folder


def weights(folder: Path) -> dict[str, bytes]:
    return {k: v.numpy().tobytes() for k, v in load_file(folder / "model.safetensors").items()}


def record(folder: Path) -> Any:
    return json.loads((folder / "run.json").read_text())


def test_json_and_table_of_a_store(spikeformers, store, text):
    arguments = ("tokenize", text, "--out", store, "--tokenizer", "byte", "--shard-tokens", 5000)
    ended = spikeformers(*arguments, "--json")
    assert ended.code == 0, ended.err
    train = ended.json["splits"]["train"]
    assert train["tokens"] == train["bytes"] + train["documents"]
    assert ended.json["vocab_size"] == 258
    assert len(ended.json["content"]) == 32
    table = spikeformers(*arguments)
    assert f"{train['tokens']:,} tokens" in table.out
    made = json.loads((store / "manifest.json").read_text())["made_with"]
    assert made == {
        "tokenizer": "byte", "masked": False, "text_field": "text", "validation_fraction": 0.05,
        "config_name": None,
    }  # fmt: skip


def test_a_run_on_shards_has_the_weights_of_a_run_on_the_text(
    spikeformers, tiny, store, causal, tmp_path
):
    out = tmp_path / "run"
    ended = spikeformers("pretrain", *WD, "--data", store, "--out", out, *tiny())
    assert ended.code == 0, ended.err
    assert weights(out) == weights(causal)
    assert load_model(out)[1].eos_token_id == 256
    data = record(out)["data"]
    assert data["content"]
    assert data["request"]["source"] == str(store)
    assert data["request"]["tokenizer"] == "byte"


def test_a_run_on_shards_resumes(spikeformers, tiny, store, causal, tmp_path):
    out = tmp_path / "run"
    steps = ("--set", "save_every=2", "--set", "schedule_steps=6")
    short = spikeformers("pretrain", *WD, "--data", store, "--out", out, *tiny(steps=4), *steps)
    assert short.code == 0, short.err
    moved = Path(shutil.copytree(store, tmp_path / "moved"))
    ended = spikeformers("pretrain", "--out", out, "--resume", "--data", moved, "--set", "steps=6")
    assert ended.code == 0, ended.err
    assert weights(out) == weights(causal)
    with (moved / "train-00000.bin").open("r+b") as file:
        file.write(b"\x07")
    ended = spikeformers("pretrain", "--out", out, "--resume", "--data", moved)
    assert ended.code == 2
    assert "is damaged: train-00000.bin has the digest" in ended.err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--tokenizer", "bpe:300"), "made with tokenizer='byte', and tokenizer is now 'bpe:300'"),
        (("--set", "validation_fraction=0.1"), "made with validation_fraction=0.05"),
        (("--preset", "we-spikingformer-tiny"), "needs one for masked models (--masked)"),
    ],
)
def test_a_store_made_otherwise_is_refused(spikeformers, store, tmp_path, more, message):
    out = tmp_path / "run"
    ended = spikeformers("pretrain", *WD, "--data", store, "--out", out, *more)
    assert ended.code == 2
    assert message in ended.err
    assert not out.exists()


@pytest.mark.parametrize(
    "verb",
    [
        ("distill", "--student", "wd-spikingformer-tiny", "--teacher", "{teacher}"),
        ("evaluate", "perplexity", "{teacher}"),
    ],
)
def test_other_verbs_say_that_they_read_text(spikeformers, store, teacher, tmp_path, verb):
    words = [str(teacher) if word == "{teacher}" else word for word in verb]
    out = ("--out", tmp_path / "run") if "distill" in words else ()
    ended = spikeformers(*words, "--data", store, *out)
    assert ended.code == 2
    assert "is a token store, and text is needed" in ended.err


def test_a_store_of_the_cache_is_refused(spikeformers, text, tmp_path):
    from spikeformers.data import load_corpus, make_tokenizer, tokenize_corpus

    cached = tokenize_corpus(load_corpus(text), make_tokenizer("byte"), tmp_path / "cache").folder
    ended = spikeformers("pretrain", *WD, "--data", cached, "--out", tmp_path / "run")
    assert ended.code == 2
    assert "is a token store of the cache" in ended.err


def test_a_folder_that_is_a_file_is_refused(spikeformers, text, tmp_path):
    (tmp_path / "file").write_text("")
    ended = spikeformers("tokenize", text, "--out", tmp_path / "file")
    assert ended.code == 2
    assert "is a file" in ended.err


def test_the_verb_shows_its_progress(spikeformers, text, tmp_path, monkeypatch):
    from spikeformers import progress

    monkeypatch.setattr(progress, "EVERY", 0.0)
    ended = spikeformers("tokenize", text, "--out", tmp_path / "store", "--tokenizer", "byte")
    assert "tokenising: 0.0 of 0.0 MB (100 %)" in ended.err
