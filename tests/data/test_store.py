"""The token store: counts, reuse, damage, and a full disk."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from xxhash import xxh3_128_hexdigest

from spikeformers.data import encoding
from spikeformers.data import store as module
from spikeformers.data.corpora import Corpus, load_corpus
from spikeformers.data.store import TokenStore, default_cache_dir, tokenize_corpus
from spikeformers.data.tokenizers import make_tokenizer, tokenizer_digest
from spikeformers.errors import DataError, StorageError

TRAIN = ["Grüße an alle", "zwei  Worte"]
VALIDATION = ["<|endoftext|>"]  # text that looks like an end must not become one


def corpus_of(train=TRAIN, validation=VALIDATION, digest="c" * 64, continuous=False):
    parts = {"train": train, "validation": validation}
    streams = {k: lambda v=v: [(str(i), t) for i, t in enumerate(v)] for k, v in parts.items()}
    return Corpus("two", digest, streams, "by hand", continuous, 40)


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer("byte")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_tokens_counts_and_manifest(tokenizer, tmp_path):
    store = tokenize_corpus(corpus_of(), tokenizer, tmp_path)
    train, validation = store.split("train"), store.split("validation")
    assert train.tokens.tolist() == [*TRAIN[0].encode(), 256, *TRAIN[1].encode(), 256]
    assert validation.tokens.tolist() == [*VALIDATION[0].encode(), 256]
    assert train.tokens.dtype == np.uint16
    assert not train.tokens.flags.writeable
    assert (train.num_tokens, train.num_bytes, train.num_words) == (28, 26, 5)
    assert (train.num_documents, validation.num_documents) == (2, 1)
    assert store.manifest == {
        "format_version": 1,
        "dtype": "<u2",
        "corpus": {"name": "two", "digest": "c" * 64, "split_by": "by hand"},
        "tokenizer": {"digest": tokenizer_digest(tokenizer), "vocab_size": 258},
        "separator_id": 256,
        "splits": {
            "train": {"tokens": 28, "bytes": 26, "words": 5, "documents": 2},
            "validation": {"tokens": 14, "bytes": 13, "words": 1, "documents": 1},
        },
    }
    files = {
        part.name: {"xxh3": xxh3_128_hexdigest(part.tokens.tobytes()), "largest_id": 256}
        for part in (train, validation)
    }
    written = json.loads((store.folder / "manifest.json").read_text())
    assert len(written.pop("xxh3")) == 32
    assert written == store.manifest | {"files": files}  # a run's record has no use for them
    assert [p.name for p in tmp_path.iterdir()] == [store.folder.name]  # no drafts left


def test_running_text_has_one_end(tokenizer, tmp_path):
    store = tokenize_corpus(corpus_of(continuous=True), tokenizer, tmp_path)
    assert store.split("train").tokens.tolist() == [*"".join(TRAIN).encode(), 256]
    assert store.split("train").num_documents == 1


def test_made_once_and_apart_for_other_input(tokenizer, tmp_path, monkeypatch):
    first = tokenize_corpus(corpus_of(), tokenizer, tmp_path)
    other_corpus = tokenize_corpus(corpus_of(digest="d" * 64), tokenizer, tmp_path)
    other_tokenizer = tokenize_corpus(corpus_of(), make_tokenizer("byte", masked=True), tmp_path)
    assert len({first.folder, other_corpus.folder, other_tokenizer.folder}) == 3
    monkeypatch.setattr(module, "_write", lambda *_: pytest.fail("made again"))
    assert tokenize_corpus(corpus_of(), tokenizer, tmp_path).folder == first.folder


def test_large_vocabulary_takes_four_bytes(tokenizer, tmp_path):
    wide = make_tokenizer("byte")
    wide.add_tokens([f"<{number}>" for number in range(66_000)])
    store = tokenize_corpus(corpus_of(["a <65999>"]), wide, tmp_path)
    assert store.split("train").tokens.dtype == np.uint32
    assert store.split("train").tokens.tolist() == [97, 32, 258 + 65_999, 256]


def test_empty_split(tokenizer, tmp_path):
    store = tokenize_corpus(corpus_of(validation=[]), tokenizer, tmp_path)
    assert store.split("validation").num_tokens == 0
    assert store.split("validation").tokens.tolist() == []


@pytest.mark.parametrize("spec", ["byte", "bpe:280", "gpt2", "bert"])
def test_long_documents_in_pieces_are_the_same(spec, tmp_path, monkeypatch, request):
    if spec in ("gpt2", "bert"):
        spec = str(request.getfixturevalue("shared_data") / "tokenizers" / spec)
    texts = [
        "The spikes, of a neuron; don't  stop\n\n here: größer als 12 345 -- x = y\t+ 1. " * 60,
        "語" * 300,
    ]
    corpus = corpus_of(texts)
    tokenizer = make_tokenizer(spec, corpus)
    complete = tokenize_corpus(corpus, tokenizer, tmp_path / "whole").split("train")
    monkeypatch.setattr(encoding, "PIECE", 100)
    monkeypatch.setattr(encoding, "BATCH", 500)
    pieces = tokenize_corpus(corpus, tokenizer, tmp_path / "pieces").split("train")
    assert (pieces.num_bytes, pieces.num_documents) == (complete.num_bytes, complete.num_documents)
    if spec == "byte":  # where there is no space for long, a merge may be cut
        np.testing.assert_array_equal(pieces.tokens, complete.tokens)
    end = complete.tokens.tolist().index(tokenizer.eos_token_id)
    np.testing.assert_array_equal(pieces.tokens[: end + 1], complete.tokens[: end + 1])


def test_progress_counts_bytes(tokenizer, tmp_path):
    seen: list[tuple[int, int | None]] = []
    tokenize_corpus(corpus_of(), tokenizer, tmp_path, lambda *done: seen.append(done))
    assert seen == [(26, 40), (39, 40)]  # a call per batch


def test_builtin_corpus(tokenizer, tmp_path):
    corpus = load_corpus("builtin")
    store = tokenize_corpus(corpus, tokenizer, tmp_path)
    splits = store.manifest["splits"].values()
    assert sum(counts["bytes"] for counts in splits) == corpus.num_bytes
    assert all(c["tokens"] == c["bytes"] + c["documents"] for c in splits)
    first = next(corpus.documents("validation"))
    assert tokenizer.decode(store.split("validation").tokens[: len(first.encode())]) == first


def test_unknown_split(tokenizer, tmp_path):
    store = tokenize_corpus(corpus_of(), tokenizer, tmp_path)
    with pytest.raises(DataError, match="no 'test' split; it has train, validation"):
        store.split("test")


def test_default_cache_dir(monkeypatch):
    monkeypatch.setenv("SPIKEFORMERS_CACHE", "~/elsewhere")
    assert default_cache_dir() == Path.home() / "elsewhere"
    monkeypatch.delenv("SPIKEFORMERS_CACHE")
    assert default_cache_dir() == Path.home() / ".cache" / "spikeformers"


def flip(path: Path) -> None:
    """Change one bit; the size stays."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def edit(path: Path, leave_out: str = "", **counts: object) -> None:
    """A manifest without a key, or with other counts of the training split."""
    manifest = json.loads(path.read_text())
    manifest.pop(leave_out, None)
    manifest["splits"]["train"] |= counts
    path.write_text(json.dumps(manifest))


# --- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: os.truncate(f / "train.bin", 50), r"train\.bin holds 50 bytes, .* says 56"),
        (lambda f: (f / "train.bin").unlink(), r"train\.bin is missing"),
        (lambda f: (f / "manifest.json").write_text("{"), r"manifest\.json cannot be used"),
        (lambda f: (f / "manifest.json").write_text('{"dtype": "<u2"}'), "cannot be used"),
        (lambda f: (f / "manifest.json").unlink(), r"it has no manifest\.json"),
        (
            lambda f: (f / "train.bin").write_bytes(b"\x01" * 56),
            r"train\.bin has the digest [0-9a-f]",
        ),
        (lambda f: flip(f / "validation.bin"), r"validation\.bin has the digest [0-9a-f]{32}, and"),
        (
            lambda f: edit(f / "manifest.json", "files"),
            r"an older version wrote it, without digests",
        ),
        (lambda f: edit(f / "manifest.json", "xxh3"), r"its content is not what was written"),
        (lambda f: edit(f / "manifest.json", bytes=27), r"its content is not what was written"),
        (lambda f: edit(f / "manifest.json", tokens="28"), r"tokens is '28'"),
    ],
)
def test_damage_is_named_and_mended(tokenizer, tmp_path, caplog, damage, message):
    folder = tokenize_corpus(corpus_of(), tokenizer, tmp_path).folder
    good = contents(tmp_path)
    damage(folder)
    with pytest.raises(DataError, match=message):
        TokenStore(folder)
    assert tokenize_corpus(corpus_of(), tokenizer, tmp_path).split("train").num_tokens == 28
    assert "It is made again" in caplog.text
    assert contents(tmp_path) == good


def test_another_process_was_first(tokenizer, tmp_path, monkeypatch):
    write = module._write

    def slow(*args):
        write(*args)
        monkeypatch.setattr(module, "_write", write)
        tokenize_corpus(corpus_of(), tokenizer, tmp_path)  # the other one

    monkeypatch.setattr(module, "_write", slow)
    store = tokenize_corpus(corpus_of(), tokenizer, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [store.folder.name]


@pytest.mark.parametrize("where", ["os.fsync", "os.replace", "tempfile.mkdtemp"])
def test_full_disk_leaves_everything_as_it_was(tokenizer, tmp_path, monkeypatch, where):
    earlier = tokenize_corpus(corpus_of(), tokenizer, tmp_path)
    before = contents(tmp_path)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(where, full)
        with pytest.raises(
            StorageError, match=r"No space left on device\. Existing files are unchanged"
        ):
            tokenize_corpus(corpus_of(digest="d" * 64), tokenizer, tmp_path)
    assert contents(tmp_path) == before
    assert TokenStore(earlier.folder).split("train").num_tokens == 28


def test_cache_that_is_a_file(tokenizer, tmp_path):
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(StorageError, match="cannot be written below"):
        tokenize_corpus(corpus_of(), tokenizer, tmp_path / "cache")


def test_unreadable_text_is_not_a_storage_error(tokenizer, tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b"}\n{"nothing": 1}\n')
    corpus = load_corpus(path, validation_fraction=0)
    with pytest.raises(DataError, match=r"x\.jsonl:3: no field 'text'"):
        tokenize_corpus(corpus, tokenizer, tmp_path / "cache")
    assert contents(tmp_path / "cache") == {}


def test_ids_beyond_a_vocabulary_are_found_before_they_reach_a_model(tokenizer, tmp_path):
    split = tokenize_corpus(corpus_of(), tokenizer, tmp_path).split("train")
    split.check_vocabulary(257)
    with pytest.raises(DataError, match=r"train text holds the token id 256, .* vocabulary is 256"):
        split.check_vocabulary(256)
    unsaid = dataclasses.replace(split, largest_id=None)
    unsaid.check_vocabulary(257)
    with pytest.raises(DataError, match="token id 256"):
        unsaid.check_vocabulary(256)


def test_a_store_is_read_at_its_place_whatever_version_wrote_it(tokenizer, tmp_path):
    first = tokenize_corpus(corpus_of(), tokenizer, tmp_path)
    edit(first.folder / "manifest.json", "files")  # as before there were digests
    again = tokenize_corpus(corpus_of(), tokenizer, tmp_path)
    assert (again.folder, again.manifest) == (first.folder, first.manifest)
    assert [path.name for path in tmp_path.iterdir()] == [first.folder.name]
