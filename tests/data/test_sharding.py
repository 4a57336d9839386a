"""A store of shards: the same bytes however it was made, and refused by name if damaged."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spikeformers.data import (
    WindowSampler,
    batch,
    encoding,
    make_tokenizer,
    read_store_tokenizer,
    tokenize_corpus,
    tokenize_shards,
)
from spikeformers.data.corpora import Corpus, load_corpus
from spikeformers.data.shards import ShardedTokens
from spikeformers.data.store import TokenStore
from spikeformers.errors import ConfigError, DataError, StorageError, UsageError

WORDS = ["the", "spike", "of", "a", "neuron", "wins", "größer", "als", "12", "is", "quiet\n"]


def documents(number: int) -> list[str]:
    draw = np.random.default_rng(number)
    return [" ".join(draw.choice(WORDS, size=60)) for _ in range(number)]


def corpus_of(train: int = 40, validation: int = 5, continuous: bool = False) -> Corpus:
    parts = {"train": documents(train), "validation": documents(validation)}
    streams = {k: lambda v=v: [(str(i), t) for i, t in enumerate(v)] for k, v in parts.items()}
    return Corpus("made", "c" * 64, streams, "by hand", continuous, None)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "PIECE", 200)
    monkeypatch.setattr(encoding, "BATCH", 700)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer("bpe:280", corpus_of())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def whole(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that one process made without interruption."""
    folder = tmp_path_factory.mktemp("whole") / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "PIECE", 200)
        patch.setattr(encoding, "BATCH", 700)
        tokenize_shards(corpus_of(), tokenizer, folder, shard_tokens=1000)
    return folder


@pytest.mark.parametrize("continuous", [False, True])
def test_shards_hold_the_tokens_of_the_single_file(
    tokenizer: Any, tmp_path: Path, continuous: bool
) -> None:
    corpus = corpus_of(continuous=continuous)
    single = tokenize_corpus(corpus, tokenizer, tmp_path / "cache").split("train")
    store = tokenize_shards(corpus, tokenizer, tmp_path / "store", shard_tokens=1000)
    train = store.split("train")
    assert len(train.shards) > 3
    sizes = [shard.tokens for shard in train.shards]
    assert all(1000 <= size < 1000 + 700 for size in sizes[:-1])
    assert sizes[-1] > 0
    np.testing.assert_array_equal(np.asarray(train.tokens), single.tokens)
    for name in ("num_tokens", "num_bytes", "num_words", "num_documents", "largest_id"):
        assert getattr(train, name) == getattr(single, name)
    ends = int((np.asarray(train.tokens) == tokenizer.eos_token_id).sum())
    assert ends == train.num_documents == (1 if continuous else 40)


def test_workers_change_nothing(tokenizer: Any, whole: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    out = tmp_path / "store"
    tokenize_shards(
        corpus_of(), tokenizer, out, workers=2, shard_tokens=1000,
        progress=lambda *done: seen.append(done),
    )  # fmt: skip
    assert contents(out) == contents(whole)
    assert seen[0] == (0, None)
    assert seen[-1][0] == sum(len(t.encode()) for n in (40, 5) for t in documents(n))
    assert seen == sorted(seen)


class Stopped(Exception):
    """Ends a run in the middle."""


@pytest.mark.parametrize("moment", range(0, 30, 3))
def test_an_interrupted_run_ends_with_the_same_bytes(
    tokenizer: Any, whole: Path, tmp_path: Path, moment: int
) -> None:
    """Stopped after any number of batches, twice, and continued."""
    out = tmp_path / "store"
    for stop in (moment, moment // 2 + 1):
        calls = iter(range(10_000))

        def progress(done: int, total: int | None, stop=stop, calls=calls) -> None:
            if next(calls) == stop:
                raise Stopped

        try:
            tokenize_shards(corpus_of(), tokenizer, out, shard_tokens=1000, progress=progress)
        except Stopped:
            assert not (out / "manifest.json").exists()
    tokenize_shards(corpus_of(), tokenizer, out, shard_tokens=1000)
    assert contents(out) == contents(whole)


def test_complete_shards_are_not_encoded_again(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "store"

    def progress(done: int, total: int | None) -> None:
        if (out / "train-00002.bin").exists():
            raise Stopped

    with pytest.raises(Stopped):
        tokenize_shards(corpus_of(), tokenizer, out, shard_tokens=1000, progress=progress)
    stored = sum(e["counts"]["bytes"] for e in _draft(out)["splits"]["train"])
    first: list[int] = []
    encoded: list[int] = []
    encode = encoding.Encoder.__call__

    def counted(self: Any, pieces: Any, name: str = "") -> Any:
        encoded.append(sum(len(text.encode()) for text, _ in pieces))
        return encode(self, pieces, name)

    monkeypatch.setattr(encoding.Encoder, "__call__", counted)
    tokenize_shards(
        corpus_of(), tokenizer, out, shard_tokens=1000, progress=lambda done, _: first.append(done)
    )
    assert first[0] == stored > 0
    assert stored + sum(encoded) == sum(len(t.encode()) for n in (40, 5) for t in documents(n))


def _draft(folder: Path) -> Any:
    return json.loads((folder / "draft.json").read_text())


KILLED = """
import sys
from pathlib import Path
sys.path[:0] = {path!r}
from spikeformers.data import encoding, load_corpus, make_tokenizer, tokenize_shards
encoding.BATCH = 2000
if __name__ == "__main__":
    corpus = load_corpus({source!r})
    tokenize_shards(corpus, make_tokenizer("byte"), {out!r}, workers=2, shard_tokens=20_000)
"""


def test_what_a_killed_write_left_is_removed(tmp_path: Path) -> None:
    source, out = tmp_path / "text", tmp_path / "store"
    source.mkdir()
    (source / "a.txt").write_text("a few words", encoding="utf-8")
    out.mkdir()
    (out / ".draft.json.4242.tmp").write_text("{", encoding="utf-8")
    corpus = load_corpus(source)
    tokenize_shards(corpus, make_tokenizer("byte", corpus), out, shard_tokens=20_000)
    assert not list(out.glob(".*.tmp"))
    assert (out / "manifest.json").is_file()


def test_a_killed_process_leaves_a_store_that_is_continued(tmp_path: Path) -> None:
    source, out = tmp_path / "text", tmp_path / "store"
    source.mkdir()
    for number, text in enumerate(documents(900)):
        (source / f"{number:03}.txt").write_text(text, encoding="utf-8")
    script = tmp_path / "run.py"
    script.write_text(KILLED.format(path=sys.path, source=str(source), out=str(out)))
    process = subprocess.Popen([sys.executable, str(script)])
    deadline = time.monotonic() + 60
    while not (out / "train-00001.bin").exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "BATCH", 2000)
        patch.setattr(encoding, "PIECE", 1 << 18)
        corpus, tokenizer = load_corpus(source), make_tokenizer("byte")
        tokenize_shards(corpus, tokenizer, out, shard_tokens=20_000)
        tokenize_shards(corpus, tokenizer, tmp_path / "other", shard_tokens=20_000)
    assert contents(out) == contents(tmp_path / "other")


def test_a_complete_store_is_opened_and_another_request_refused(
    tokenizer: Any, whole: Path
) -> None:
    before = contents(whole)
    store = tokenize_shards(corpus_of(), tokenizer, whole, shard_tokens=1000)
    assert store.split("validation").num_documents == 5
    with pytest.raises(ConfigError, match=r"another shard_tokens: 1000, now 2000"):
        tokenize_shards(corpus_of(), tokenizer, whole, shard_tokens=2000)
    with pytest.raises(ConfigError, match="another tokenizer"):
        tokenize_shards(corpus_of(), make_tokenizer("byte"), whole, shard_tokens=1000)
    assert contents(whole) == before


def test_a_folder_with_other_content_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"already holds 'mine\.txt'"):
        tokenize_shards(corpus_of(), tokenizer, tmp_path)
    with pytest.raises(ConfigError, match="workers is 0; it must be between 1 and 256"):
        tokenize_shards(corpus_of(), tokenizer, tmp_path / "new", workers=0)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("damage", ["cut", "flip", "remove"])
def test_a_damaged_shard_is_named(tokenizer: Any, whole: Path, tmp_path: Path, damage: str) -> None:
    import shutil

    folder = Path(shutil.copytree(whole, tmp_path / "store"))
    path = folder / "train-00001.bin"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.unlink()
    if damage != "remove":
        path.write_bytes(content[:-2] if damage == "cut" else content)
    problem = {"cut": "holds", "flip": "has the digest", "remove": "is missing"}[damage]
    with pytest.raises(DataError, match=rf"is damaged: train-00001\.bin {problem}"):
        TokenStore(folder)
    if damage == "flip":
        TokenStore(folder, content=False)  # as the further processes of a machine open it


def test_a_draft_with_a_damaged_shard_is_mended(
    tokenizer: Any, whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "store"

    def progress(done: int, total: int | None) -> None:
        if (out / "validation-00000.part").exists():
            raise Stopped

    with pytest.raises(Stopped):
        tokenize_shards(corpus_of(), tokenizer, out, shard_tokens=1000, progress=progress)
    (out / "train-00001.bin").write_bytes(b"\x00" * 7)
    tokenize_shards(corpus_of(), tokenizer, out, shard_tokens=1000)
    assert "train-00001.bin holds 7 bytes" in caplog.text
    assert contents(out) == contents(whole)


def test_a_full_disk_keeps_the_complete_shards(
    tokenizer: Any, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, calls, replace = tmp_path / "store", iter(range(100)), os.replace

    def full(source: Any, target: Any) -> None:
        if str(target).endswith(".bin") and next(calls) == 2:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(
        StorageError, match=r"No space left on device\. The complete shards are kept"
    ):
        tokenize_shards(corpus_of(), tokenizer, out, shard_tokens=1000)
    assert len(_draft(out)["splits"]["train"]) == 2
    tokenize_shards(corpus_of(), tokenizer, out, shard_tokens=1000)
    assert contents(out) == contents(whole)


def test_the_tokenizer_of_a_store_is_its_own(tokenizer: Any, whole: Path, tmp_path: Path) -> None:
    store = TokenStore(whole)
    read = read_store_tokenizer(store)
    text = documents(1)[0]
    assert read(text).input_ids == tokenizer(text).input_ids
    assert read.eos_token_id == tokenizer.eos_token_id
    make_tokenizer("byte").save_pretrained(whole / "tokenizer")
    try:
        with pytest.raises(DataError, match="is not the one that made the tokens"):
            read_store_tokenizer(store)
    finally:
        tokenizer.save_pretrained(whole / "tokenizer")
    cached = tokenize_corpus(corpus_of(), tokenizer, tmp_path)
    with pytest.raises(DataError, match="has no folder 'tokenizer'"):
        read_store_tokenizer(cached)


def test_text_that_cannot_be_encoded_is_a_data_error_from_a_worker_too(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"the": 0, "<end>": 1}, unk_token="[absent]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    narrow = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")
    for workers in (1, 2):
        with pytest.raises(DataError, match="cannot encode the text of made"):
            tokenize_shards(corpus_of(), narrow, tmp_path / str(workers), workers=workers)


def test_a_worker_that_is_killed_is_named(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = encoding._start

    def killed(rules: Any) -> Any:
        process = start(rules)
        process.kill()
        process.wait()
        return process

    monkeypatch.setattr(encoding, "_start", killed)
    from spikeformers.errors import SpikeformersError

    with pytest.raises(SpikeformersError, match="a worker that encodes made ended with code -9"):
        tokenize_shards(corpus_of(), tokenizer, tmp_path / "store", workers=2)


# --- reading --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def both(whole: Path) -> tuple[ShardedTokens, Any]:
    """The tokens in shards, and the same as one array."""
    split = TokenStore(whole).split("train")
    parts = [np.fromfile(shard.path, dtype=split.dtype) for shard in split.shards]
    return split.tokens, np.concatenate(parts)


@pytest.mark.parametrize(
    "index",
    [
        slice(None), slice(0, 0), slice(5, 3), slice(990, 1010), slice(3, 4000, 7),
        slice(-20, None), slice(None, 1 << 40), 0, -1, 1234, np.arange(0), np.arange(980, 1040),
        np.array([[0, 3999], [1500, 1000]]),
    ],
)  # fmt: skip
def test_sharded_tokens_are_indexed_as_one_array(both: Any, index: Any) -> None:
    sharded, array = both
    assert len(sharded) == sharded.shape[0] == len(array)
    np.testing.assert_array_equal(sharded[index], array[index])
    assert sharded[index].dtype == array.dtype


def test_an_index_outside_is_an_error(both: Any) -> None:
    sharded, array = both
    for index in (len(array), -len(array) - 1, [0, len(array)]):
        with pytest.raises(IndexError, match="lies outside"):
            sharded[index]


def test_windows_of_shards_are_those_of_one_file(both: Any, whole: Path) -> None:
    _, array = both
    split = TokenStore(whole).split("train")
    sampler = WindowSampler(split.num_tokens, 64, 8, seed=3)
    for step in (0, 1, 17):
        starts = sampler.indices(step)
        windows = batch(split, starts, 64)
        np.testing.assert_array_equal(windows, batch(array, starts, 64))
        for world in (1, 2, 4):  # each rank reads its own windows only
            shares = [batch(split, part, 64) for part in np.split(starts, world)]
            np.testing.assert_array_equal(np.concatenate(shares), windows)
