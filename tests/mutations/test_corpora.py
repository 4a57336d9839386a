"""Texts: plain, JSON Lines, gzipped, Parquet."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest

from spikeformers.data import load_corpus, make_tokenizer, tokenize_corpus

from .conftest import Mutator, Survive, change_bytes, change_lines

TEXT = "A spike is né.\n\nIt fires 🙂 at once.\n" * 12
ROWS = [{"text": f"{number} {TEXT[:40]}", "id": number} for number in range(30)]


def as_parquet(folder: Path) -> bytes:
    path = folder / "made.parquet"
    parquet.write_table(arrow.Table.from_pylist(ROWS), path, row_group_size=10)
    content = path.read_bytes()
    path.unlink()
    return content


def as_lines(folder: Path) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in ROWS).encode()


KINDS: dict[str, tuple[Callable[[Path], bytes], Mutator]] = {
    "a.txt": (lambda folder: TEXT.encode(), change_bytes),
    "wiki.train.tokens": (
        lambda folder: b" \n = A title = \n \n Text of it .\n" * 9,
        change_bytes,
    ),
    "a.jsonl": (as_lines, change_lines),
    "a.jsonl.gz": (lambda folder: gzip.compress(as_lines(folder), mtime=0), change_bytes),
    "a.parquet": (as_parquet, change_bytes),
}


@pytest.mark.parametrize("name", list(KINDS))
def test_corpus(survive: Survive, tmp_path: Path, name: str) -> None:
    make, change = KINDS[name]
    file, tokenizer = tmp_path / name, make_tokenizer("byte")

    def use(mutant: bytes) -> None:
        file.write_bytes(mutant)
        tokenize_corpus(load_corpus(file), tokenizer, tmp_path / "cache")

    came = survive(make(tmp_path), change, use)
    assert came["refused"]


def test_manifest_of_a_token_store(survive: Survive, tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text(TEXT, encoding="utf-8")
    corpus, tokenizer = load_corpus(file), make_tokenizer("byte")
    store = tokenize_corpus(corpus, tokenizer, tmp_path / "cache")
    manifest = store.folder / "manifest.json"

    def use(mutant: bytes) -> None:
        manifest.write_bytes(mutant)
        again = tokenize_corpus(corpus, tokenizer, tmp_path / "cache")
        for split in again.splits:
            again.split(split).tokens.tolist()

    from .conftest import change_json

    survive(manifest.read_bytes(), change_json, use, share=0.5)


def test_a_seed_draws_the_same_mutation() -> None:
    first, second = (change_bytes(b"spike" * 9, random.Random("0 7")) for _ in range(2))
    assert first == second
