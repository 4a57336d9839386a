"""Text and tokens without Transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spikeformers.errors import ConfigError, DataError
from spikeformers.foreign import check_object, foreign, without_panic_messages

TOKENIZER: dict[str, Any] = {"rules": str, "bos": int | None, "eos": int | None}
"""The tokenizer of an engine file."""
CHAT: dict[str, Any] = {"chat_template": str | None}
"""What it may also hold; files of earlier versions do not."""


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
