"""The bytes of single tokens, for vocabularies that spell them in different ways."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from spikeformers.data import make_tokenizer
from spikeformers.engine.tokens import EngineTokenizer

TEXT = "a spike é 🙂\n"


def of_rules(rules: Tokenizer) -> EngineTokenizer:
    return EngineTokenizer({"rules": rules.to_str(), "bos": None, "eos": None})


def test_bytes_of_a_byte_level_vocabulary_add_up_to_the_text() -> None:
    tokenizer: Any = make_tokenizer("byte")
    engine = of_rules(tokenizer.backend_tokenizer)
    ids = engine(TEXT, add_special_tokens=False)["input_ids"]
    assert b"".join(engine.token_bytes(token) for token in ids) == TEXT.encode()
    end = tokenizer.eos_token_id
    assert engine.token_bytes(end).decode() == tokenizer.eos_token
    assert engine.token_bytes(10**6) == b""
    assert engine.eos_token is None


def test_every_byte_has_a_spelling() -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    rules = Tokenizer(models.BPE({letter: place for place, letter in enumerate(alphabet)}, []))
    rules.decoder = decoders.ByteLevel()
    engine = of_rules(rules)
    spelled = {engine.token_bytes(token) for token in range(256)}
    assert spelled == {bytes([byte]) for byte in range(256)}


@pytest.mark.parametrize("fallback", [True, False])
def test_sentencepiece_vocabularies_keep_their_spaces(fallback: bool) -> None:
    vocabulary = {"<unk>": 0, "\u2581the": 1, "<0xE2>": 2, "s": 3}
    rules = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=fallback))
    parts = [decoders.Replace("\u2581", " "), *([decoders.ByteFallback()] if fallback else [])]
    rules.decoder = decoders.Sequence([*parts, decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    rules.add_special_tokens([AddedToken("<end>", special=True)])
    engine = of_rules(rules)
    assert engine.token_bytes(1) == b" the"
    assert engine.token_bytes(2) == (b"\xe2" if fallback else b"<0xE2>")
    assert engine.token_bytes(4) == b"<end>"
