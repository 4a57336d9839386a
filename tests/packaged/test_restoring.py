"""Packaged models: a tiny one made as the real one is, and the files that are shipped."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import spikeformers
from spikeformers.cli import main
from spikeformers.cli.demo import _show_packaged_text
from spikeformers.data import make_tokenizer
from spikeformers.engine import load
from spikeformers.errors import CheckpointError, StorageError, UsageError
from spikeformers.export import open_engine
from spikeformers.generation import generate_text
from spikeformers.generation.packaged_text import packaged_text
from spikeformers.models import DEAD_ZONES, build_config, build_model, load_model, load_reference
from spikeformers.packaged import ENGINE, KNOWN, locate, packaged_engine, restoring
from spikeformers.packaged.known import PackagedModel
from spikeformers.studies import describe

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SHIPPED = restoring.HOME / "books"
shipped = pytest.mark.skipif(
    not (SHIPPED / ENGINE).is_file(),
    reason="the packaged model is not trained yet: benchmarks/books_model.py writes its files",
)
PROMPT = "It was a dark and stormy night"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of a tiny model with dead zones, whose weights are random."""
    folder = tmp_path_factory.mktemp("run")
    tokenizer = make_tokenizer("byte")
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(3)
    model = build_model(
        build_config("wd-spikingformer-tiny", len(tokenizer), {**DEAD_ZONES, **shape})
    )
    with torch.no_grad():  # random embeddings are so small that nothing would fire
        model.get_input_embeddings().weight.mul_(20)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def made(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of packaged models, with `books` made from that run."""
    home = tmp_path_factory.mktemp("packaged")
    sys.path.insert(0, str(BENCHMARKS))
    try:
        importlib.import_module("books_model").pack_files(trained, home / "books")
    finally:
        sys.path.remove(str(BENCHMARKS))
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it in the place of the package's own, and an empty cache."""
    shutil.copytree(made, tmp_path / "packaged")
    monkeypatch.setattr(restoring, "HOME", tmp_path / "packaged")
    monkeypatch.setenv("SPIKEFORMERS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "packaged" / "books"


def test_the_folder_holds_the_numbers_of_the_engine_file(home: Path, trained: Path) -> None:
    before = load_file(trained / "model.safetensors")
    after = load_file(spikeformers.weights("books") / "model.safetensors")
    assert after.keys() == before.keys()
    places = json.loads((home / "restore.json").read_text())
    assert len(places) == 2 * 6 + 1  # query, key, value, out, up, down; the tied head
    for name, value in before.items():
        assert after[name].dtype == value.dtype
        if name not in places:
            assert np.array_equal(after[name], value)
            continue
        step = np.abs(value).max(1, keepdims=True) / 127
        assert np.abs(after[name] - value).max() > 0
        assert (np.abs(after[name] - value) <= 0.501 * step).all()


def test_the_engine_and_pytorch_write_the_same_text(home: Path) -> None:
    engine = load(packaged_engine("books"), threads=1)
    model = AutoModelForCausalLM.from_pretrained(spikeformers.weights("books"))
    tokenizer = AutoTokenizer.from_pretrained(spikeformers.weights("books"))
    given = {"max_new_tokens": 24, "temperature": 0.0}
    ours = generate_text(engine, PROMPT, **given)
    theirs = generate_text(model, PROMPT, tokenizer=tokenizer, **given)
    assert ours.tokens == 24
    assert ours.text == theirs.text


def test_every_way_in_takes_the_name(home: Path) -> None:
    folder = spikeformers.weights("books")
    model, _ = load_model("books")
    other, _ = load_reference("books")
    named = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    assert np.array_equal(model.get_input_embeddings().weight.detach().numpy(), named)
    assert np.array_equal(other.get_input_embeddings().weight.numpy(), named)
    assert open_engine("books", threads=1).packed.weights == "int8"
    assert describe("books")["parameters"] == model.num_parameters()
    assert locate("books").name == str(folder)


def test_the_name_is_taken_on_the_command_line(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def printed(*words: object) -> Any:
        with suppress(SystemExit):
            main([str(word) for word in words])
        return json.loads(capsys.readouterr().out)

    arguments = ("--prompt", PROMPT, "--max-new-tokens", 8, "--temperature", 0, "--json")
    by_name, by_file = (printed("generate", each, *arguments) for each in ("books", home / ENGINE))
    assert by_name["text"] == by_file["text"]
    assert by_name["tokens"] == 8
    assert printed("info", "books", "--json")["shape"]["width"] == 32


def test_the_folder_is_made_once_and_again_for_other_files(home: Path) -> None:
    first = spikeformers.weights("books")
    stamp = (first / "model.safetensors").stat().st_mtime_ns
    assert spikeformers.weights("books") == first
    assert (first / "model.safetensors").stat().st_mtime_ns == stamp
    assert [path.name for path in first.parent.iterdir()] == [first.name]
    (home / "README.md").write_text("another card")
    second = spikeformers.weights("books")
    assert second != first
    assert (second / "README.md").read_text() == "another card"


def test_a_path_of_that_name_wins(
    home: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained, tmp_path / "here" / "books")
    monkeypatch.chdir(tmp_path / "here")
    assert restoring.folder_or_path("books") == Path("books")
    assert restoring.engine_or_path("books") == Path("books")
    assert restoring.folder_or_path(tmp_path) == tmp_path


def test_an_unknown_name_lists_those_that_exist(home: Path) -> None:
    with pytest.raises(UsageError, match=r"'boks' comes with .*there is books\. Did you mean 'bo"):
        spikeformers.weights("boks")
    with pytest.raises(UsageError, match="It does not come with this package: convert it"):
        spikeformers.weights("smollm2-135m")


def test_files_that_are_missing_or_damaged_are_named(home: Path) -> None:
    whole = (home / ENGINE).read_bytes()
    (home / ENGINE).write_bytes(whole[:-100])
    with pytest.raises(CheckpointError, match=r"is damaged.* Install spikeformers again"):
        spikeformers.weights("books")
    assert not list((home.parents[1] / "cache" / "models").iterdir())
    (home / ENGINE).unlink()
    with pytest.raises(CheckpointError, match=r"model\.engine is missing"):
        spikeformers.weights("books")


def test_a_cache_that_cannot_be_written_is_an_error(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SPIKEFORMERS_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="another folder in SPIKEFORMERS_CACHE"):
        spikeformers.weights("books")


def test_a_packaged_text_says_what_it_read(home: Path) -> None:
    written = packaged_text(max_new_tokens=12)
    assert written.text == packaged_text(max_new_tokens=12).text
    assert 0 < written.weights_read < 1
    assert written.threads == 1


def test_the_demo_shows_a_text_or_says_why_there_is_none(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _show_packaged_text()
    shown = capsys.readouterr().out
    assert f"(books) continues {PROMPT!r}" in shown
    assert "of the weights (counted)" in shown
    (home / ENGINE).unlink()
    _show_packaged_text()
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "model.engine is missing" in printed.err


def test_a_name_that_is_nearly_right_is_corrected(home: Path) -> None:
    with pytest.raises(CheckpointError, match="Did you mean 'books'"):
        load_model("boks")


@shipped
def test_the_shipped_files_are_small_and_complete() -> None:
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 12_000_000
    card = (SHIPPED / "README.md").read_text(encoding="utf-8")
    assert "bits per byte on test" in card
    assert card.count("\n- ") >= 190
    licence = KNOWN["books"]
    assert isinstance(licence, PackagedModel)
    assert licence.licence in card


@shipped
def test_the_shipped_model_writes_the_same_text_in_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPIKEFORMERS_CACHE", str(tmp_path))
    engine = load(packaged_engine("books"), threads=1)
    model, tokenizer = load_model("books")
    assert model.num_parameters() > 5_000_000
    given = {"max_new_tokens": 32, "temperature": 0.0}
    ours = generate_text(engine, PROMPT, **given).text
    assert ours == generate_text(model, PROMPT, tokenizer=tokenizer, **given).text


@shipped
def test_the_shipped_model_needs_neither_network_nor_torch() -> None:
    program = (
        "import sys, socket\n"
        "def refuse(*_, **__): raise RuntimeError('network')\n"
        "socket.socket.connect = refuse\n"
        "from spikeformers.cli import main\n"
        "try: main(['generate', 'books', '--prompt', 'The', '--max-new-tokens', '8'])\n"
        "except SystemExit as ended: assert not ended.code, ended.code\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=300,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.endswith("\n[]\n")
