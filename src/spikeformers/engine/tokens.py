"""Text and tokens without Transformers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from spikeformers.errors import ConfigError, DataError
from spikeformers.foreign import check_object, foreign, without_panic_messages

TOKENIZER: dict[str, Any] = {"rules": str, "bos": int | None, "eos": int | None}
"""The tokenizer of an engine file."""
CHAT: dict[str, Any] = {"chat_template": str | None}
"""What it may also hold; files of earlier versions do not."""


def _byte_alphabet() -> dict[str, int]:
    """Characters by which byte-level vocabularies spell bytes (GPT-2), and the bytes."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    spelled = {chr(byte): byte for byte in plain}
    return spelled | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTES = _byte_alphabet()
_BYTE_TOKEN = re.compile("<0x([0-9A-Fa-f]{2})>")


class EngineTokenizer:
    """The parts of a tokenizer that generation needs, from the rules in an engine file."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        from tokenizers import Tokenizer

        check_object(given, TOKENIZER, "the engine file's tokenizer", optional=CHAT)
        self.chat_template: str | None = given.get("chat_template")
        self.bos_token_id: int | None = given["bos"]
        self.eos_token_id: int | None = given["eos"]
        with foreign("the engine file's tokenizer cannot be read"), without_panic_messages():
            self._rules = Tokenizer.from_str(given["rules"])

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        with foreign("the text cannot be encoded", DataError), without_panic_messages():
            encoded = self._rules.encode(text, add_special_tokens=add_special_tokens)
            return {"input_ids": encoded.ids}

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, str]],
        tokenize: bool = False,
        add_generation_prompt: bool = True,
    ) -> str:
        """The text of ``messages`` (role, content); the arguments are those of Transformers.

        A template is a program of the file's author: it runs in Jinja's sandbox.
        """
        if tokenize:
            raise ConfigError("the engine's tokenizer renders a chat as text: tokenize=False.")
        if self.chat_template is None:
            raise ConfigError("this engine file has no chat template.")
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        def raise_exception(message: str) -> None:
            raise ValueError(message)

        with foreign("the engine file's chat template cannot be used"):
            room = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
            return room.from_string(self.chat_template).render(
                messages=list(messages),
                add_generation_prompt=add_generation_prompt,
                bos_token=self._text_of(self.bos_token_id),
                eos_token=self._text_of(self.eos_token_id),
                raise_exception=raise_exception,
            )

    @property
    def bos_token(self) -> str | None:
        """The token that begins a text, or None."""
        return self._text_of(self.bos_token_id) or None

    @property
    def eos_token(self) -> str | None:
        """The token that ends a text, or None."""
        return self._text_of(self.eos_token_id) or None

    def token_bytes(self, token: int) -> bytes:
        """UTF-8 of a token by itself, of which some are part of a character; b"" if there is none.

        A special token is its name.
        """
        name = self._rules.id_to_token(token)
        if name is None:
            return b""
        if token in self._added:
            return name.encode("utf-8", "replace")
        if '"ByteLevel"' in self._decoder and all(character in _BYTES for character in name):
            return bytes(_BYTES[character] for character in name)
        byte = _BYTE_TOKEN.fullmatch(name)
        if byte is not None and '"ByteFallback"' in self._decoder:
            return bytes.fromhex(byte[1])
        if "▁" in self._decoder:  # begins a word, which decoding by itself would strip
            return name.replace("▁", " ").encode("utf-8", "replace")
        return self.decode([token], skip_special_tokens=False).encode("utf-8", "replace")

    @cached_property
    def _decoder(self) -> str:
        return json.dumps(json.loads(self._rules.to_str()).get("decoder"), ensure_ascii=False)

    @cached_property
    def _added(self) -> frozenset[int]:
        return frozenset(self._rules.get_added_tokens_decoder())

    def _text_of(self, token: int | None) -> str:
        return "" if token is None else self._rules.id_to_token(token) or ""

    def decode(
        self,
        ids: Sequence[int],
        skip_special_tokens: bool = True,
        clean_up_tokenization_spaces: bool = False,
    ) -> str:
        """Text of ``ids``; the arguments are those of a Transformers tokenizer."""
        if clean_up_tokenization_spaces:
            raise ConfigError("the engine's tokenizer does not clean up spaces.")
        text: str = self._rules.decode(list(ids), skip_special_tokens=skip_special_tokens)
        return text
