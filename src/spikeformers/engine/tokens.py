"""Text and tokens without Transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spikeformers.errors import ConfigError, DataError
from spikeformers.foreign import check_object, foreign, without_panic_messages

TOKENIZER: dict[str, Any] = {"rules": str, "bos": int | None, "eos": int | None}
"""The tokenizer of an engine file."""


class EngineTokenizer:
    """The parts of a tokenizer that generation needs, from the rules in an engine file."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        from tokenizers import Tokenizer

        check_object(given, TOKENIZER, "the engine file's tokenizer")
        self.bos_token_id: int | None = given["bos"]
        self.eos_token_id: int | None = given["eos"]
        with foreign("the engine file's tokenizer cannot be read"), without_panic_messages():
            self._rules = Tokenizer.from_str(given["rules"])

    def __call__(self, text: str) -> dict[str, list[int]]:
        with foreign("the text cannot be encoded", DataError), without_panic_messages():
            return {"input_ids": self._rules.encode(text).ids}

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
