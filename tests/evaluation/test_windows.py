from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikeformers.data import load_corpus, make_tokenizer, tokenize_corpus
from spikeformers.errors import ConfigError, DataError
from spikeformers.evaluation.windows import text_of, windows_of


@given(st.integers(2, 60), st.integers(2, 12), st.data())
def test_every_token_is_scored_once_with_the_context_promised(
    stream: int, context: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, context - 1))
    scored: list[int] = []
    for window in windows_of(stream, context, stride):
        end = window.start + window.length
        assert window.start >= 0
        assert end <= stream
        assert window.length == min(context, stream)
        first = end - window.scored
        assert first - window.start >= min(first, context - stride)  # tokens before it
        scored += range(first, end)
    assert scored == list(range(1, stream))


def test_windows_by_hand() -> None:
    result = [(w.start, w.length, w.scored) for w in windows_of(10, 4, 2)]
    assert result == [(0, 4, 3), (2, 4, 2), (4, 4, 2), (6, 4, 2)]
    result = [(w.start, w.length, w.scored) for w in windows_of(9, 4, 2)]
    assert result == [(0, 4, 3), (2, 4, 2), (4, 4, 2), (5, 4, 1)]
    assert [(w.start, w.length, w.scored) for w in windows_of(3, 8, 4)] == [(0, 3, 2)]


@pytest.mark.parametrize(("context", "stride"), [(1, 1), (4, 0), (4, 4)])
def test_impossible_windows_are_refused(context: int, stride: int) -> None:
    with pytest.raises(ConfigError, match=r"context|stride"):
        list(windows_of(10, context, stride))


def test_documents_count_their_own_bytes_and_words() -> None:
    tokenizer = make_tokenizer("byte")
    text = text_of(tokenizer, ["Öl ist", "a b  c"])
    end = tokenizer.eos_token_id
    assert text.tokens.tolist() == [*"Öl ist".encode(), end, *b"a b  c", end]
    assert (text.bytes, text.words) == (7 + 6, 2 + 3)


def test_a_text_cannot_forge_an_end() -> None:
    tokenizer = make_tokenizer("byte")
    text = text_of(tokenizer, ["<|endoftext|>"])
    assert text.tokens.tolist() == [*b"<|endoftext|>", tokenizer.eos_token_id]


@pytest.mark.parametrize(
    ("limit", "size", "words"),
    [(1, 1, 1), (3, 3, 2), (5, 5, 2), (6, 5, 2), (7, 6, 3), (8, 6, 3), (9, 8, 3), (99, 10, 3)],
)
def test_a_cut_text_counts_what_is_left(limit: int, size: int, words: int) -> None:
    documents = ["a bcd", "xöyz"]  # a _ b c d END x o1 o2 y z END; o1 alone is not a character
    text = text_of(make_tokenizer("byte"), documents, max_tokens=limit)
    assert len(text.tokens) == min(limit, 12)
    assert (text.bytes, text.words) == (size, words)


@pytest.mark.parametrize("spec", ["byte", "bpe:300"])
def test_a_cut_split_counts_what_its_cut_documents_count(tmp_path: Path, spec: str) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.txt").write_text("the öl of the öl\n\nof the thorn ö" * 2)
    corpus = load_corpus(str(folder))
    tokenizer = make_tokenizer(spec, corpus)
    split = tokenize_corpus(corpus, tokenizer, tmp_path / "cache").split("train")
    documents = list(corpus.documents("train"))
    for limit in range(1, split.num_tokens + 2):
        text = text_of(tokenizer, split, max_tokens=limit)
        other = text_of(tokenizer, documents, max_tokens=limit)
        assert np.array_equal(text.tokens, other.tokens)
        assert (text.bytes, text.words) == (other.bytes, other.words)


def test_bad_texts_are_refused() -> None:
    tokenizer = make_tokenizer("byte")
    with pytest.raises(ConfigError, match="one string"):
        text_of(tokenizer, "a text")
    with pytest.raises(DataError, match="empty"):
        text_of(tokenizer, [])
    with pytest.raises(DataError, match="empty"):
        text_of(tokenizer, [""])
    with pytest.raises(ConfigError, match="max_tokens"):
        text_of(tokenizer, ["a"], max_tokens=0)
