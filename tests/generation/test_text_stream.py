from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikeformers.data import make_tokenizer
from spikeformers.generation.text_stream import TextStream, _possible_start

BYTE = make_tokenizer("byte")


def feed(text: str, stop: list[str] | None = None) -> tuple[list[str], TextStream]:
    stream = TextStream(BYTE, BYTE("before ")["input_ids"], stop or [])
    pieces = [stream.push(token) for token in BYTE(text)["input_ids"]]
    return [*pieces, stream.finish()], stream


def test_each_piece_comes_as_soon_as_its_character_is_whole():
    pieces, _ = feed("aé€😀")  # 1, 2, 3 and 4 bytes
    assert pieces == ["a", "", "é", "", "", "€", "", "", "", "😀", ""]


@given(st.text(max_size=30))
def test_the_pieces_make_the_text(text):
    pieces, stream = feed(text)
    assert "".join(pieces) == text == stream.text


def test_bytes_that_are_no_character_do_not_wait_for_ever():
    stream = TextStream(BYTE)
    assert [stream.push(0x80) for _ in range(4)] == ["", "", "", "\ufffd" * 4]


def test_a_stop_string_ends_the_text_and_is_not_shown():
    pieces, stream = feed("one. two; three", ["; ", "two!"])
    assert "".join(pieces) == stream.text == "one. two"
    assert stream.stopped
    assert stream.push(65) == ""


def test_what_could_begin_a_stop_string_is_held_back_and_then_given():
    pieces, stream = feed("a\n\nb\n", ["\n\n\n"])
    assert pieces == ["a", "", "", "\n\nb", "", "\n"]
    assert not stream.stopped


@pytest.mark.parametrize(
    ("text", "stop", "length"),
    [("abc", ["cd"], 1), ("abc", ["bcd", "c!"], 2), ("abc", ["abc"], 0), ("", ["a"], 0)],
)
def test_possible_start(text, stop, length):
    assert _possible_start(text, stop) == length


def test_word_tokens_keep_their_spaces(tmp_path):
    from spikeformers.data import load_corpus

    path = tmp_path / "a.txt"
    path.write_text("low lower lowest slow slower slowest\n\n" * 30)
    tokenizer = make_tokenizer("bpe:280", load_corpus(path))
    ids = tokenizer("the slowest lower")["input_ids"]
    stream = TextStream(tokenizer, ids[:2])
    text = "".join([*(stream.push(i) for i in ids[2:]), stream.finish()])
    assert tokenizer.decode(ids[:2]) + text == "the slowest lower"
