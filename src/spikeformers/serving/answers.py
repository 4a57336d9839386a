"""Answers in the two forms of OpenAI's interface, whole or in chunks.

What is added to it is named: ``usage.spikes``, ``seed``, and ``spikes`` of a choice on request.
"""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from spikeformers.serving.jobs import Ended, NewToken, PromptRead
from spikeformers.serving.logprobs import TokenLogprob
from spikeformers.serving.spikes import SpikeUsage

if TYPE_CHECKING:
    from spikeformers.engine.tokens import EngineTokenizer

FINISH = {"end": "stop", "stop": "stop", "length": "length", "context": "length"}
"""OpenAI's names of the reasons for which a text ends."""


class TokenTexts:
    """Text and bytes of single tokens."""

    def __init__(self, tokenizer: EngineTokenizer) -> None:
        self.bytes_of = lru_cache(maxsize=65536)(tokenizer.token_bytes)

    def text(self, token: int) -> str:
        """A token's text; for part of a character its bytes, as OpenAI writes them."""
        raw = self.bytes_of(token)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


@dataclass
class Piece:
    """A part of a choice: text, and what is reported of its tokens."""

    text: str = ""
    logprobs: list[TokenLogprob | None] = field(default_factory=list)
    spikes: list[Any] = field(default_factory=list)

    def add(self, event: NewToken) -> None:
        """Append a token."""
        self.text += event.text
        if event.logprob is not None:
            self.logprobs.append(event.logprob)
        if event.spikes is not None:
            self.spikes.append(event.spikes)


@dataclass
class Usage:
    """Tokens and spikes of all choices of a request."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    spikes: SpikeUsage = field(default_factory=SpikeUsage)

    def add(self, event: PromptRead | Ended) -> None:
        """Add what a choice reports."""
        if isinstance(event, PromptRead):
            self.cached_tokens += event.cached
        else:
            self.completion_tokens += event.tokens
            self.spikes += event.usage

    def as_dict(self) -> dict[str, Any]:
        """The ``usage`` of an answer."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
            "spikes": self.spikes.as_dict(),
        }


@dataclass
class Form(ABC):
    """The form of one answer."""

    model: str
    fingerprint: str
    seed: int
    texts: TokenTexts
    with_logprobs: bool
    with_spikes: bool
    created: int = field(default_factory=lambda: int(time.time()))
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:24])

    prefix = ""
    whole_object = ""
    chunk_object = ""

    def whole(self, choices: Sequence[dict[str, Any]], usage: Usage) -> dict[str, Any]:
        """The complete answer."""
        return self._envelope(self.whole_object, choices) | {"usage": usage.as_dict()}

    def chunk(self, choices: Sequence[dict[str, Any]], usage: Usage | None) -> dict[str, Any]:
        """A chunk of a stream."""
        envelope = self._envelope(self.chunk_object, choices)
        return envelope if usage is None else envelope | {"usage": usage.as_dict()}

    def choice(self, index: int, piece: Piece, finish: str | None, *, part: bool) -> dict[str, Any]:
        """A choice, or a part of it; ``finish`` is the engine's reason, None before the end."""
        choice = {"index": index, **self._content(piece, part)}
        choice["logprobs"] = self.logprobs(index, piece.logprobs) if self.with_logprobs else None
        choice["finish_reason"] = None if finish is None else FINISH[finish]
        return choice | ({"spikes": piece.spikes} if self.with_spikes else {})

    def _envelope(self, kind: str, choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": f"{self.prefix}-{self.id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "seed": self.seed,
            "choices": list(choices),
        }

    @abstractmethod
    def _content(self, piece: Piece, part: bool) -> dict[str, Any]: ...

    @abstractmethod
    def logprobs(self, index: int, entries: Sequence[TokenLogprob | None]) -> dict[str, Any]:
        """Log-probabilities in this form."""


@dataclass
class CompletionForm(Form):
    """/v1/completions."""

    prompts: Sequence[Sequence[int]] = ()
    """Token ids of the prompt of each choice, of which echoed ones have log-probabilities."""
    offsets: list[int] = field(default_factory=list)
    """Where the next token of each choice begins in its text."""

    prefix, whole_object, chunk_object = "cmpl", "text_completion", "text_completion"

    def _content(self, piece: Piece, part: bool) -> dict[str, Any]:
        return {"text": piece.text}

    def logprobs(self, index: int, entries: Sequence[TokenLogprob | None]) -> dict[str, Any]:
        tokens: list[str] = []
        offsets: list[int] = []
        tops: list[dict[str, float] | None] = []
        for entry in entries:
            text = self.texts.text(self.prompts[index][0] if entry is None else entry.token)
            tokens.append(text)
            offsets.append(self.offsets[index])
            self.offsets[index] += len(text)
            tops.append(None if entry is None else self._top(entry))
        return {
            "tokens": tokens,
            "token_logprobs": [None if entry is None else entry.logprob for entry in entries],
            "top_logprobs": tops,
            "text_offset": offsets,
        }

    def _top(self, entry: TokenLogprob) -> dict[str, float]:
        """By text; the likeliest of tokens with the same text, and the token that was drawn."""
        top: dict[str, float] = {}
        for token, logprob in (*entry.top, (entry.token, entry.logprob)):
            top.setdefault(self.texts.text(token), logprob)
        return top


@dataclass
class ChatForm(Form):
    """/v1/chat/completions."""

    prefix, whole_object, chunk_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def _content(self, piece: Piece, part: bool) -> dict[str, Any]:
        if part:
            return {"delta": {"content": piece.text} if piece.text else {}}
        return {"message": {"role": "assistant", "content": piece.text, "refusal": None}}

    def opening(self, index: int) -> dict[str, Any]:
        """The first part of a choice in a stream."""
        delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def logprobs(self, index: int, entries: Sequence[TokenLogprob | None]) -> dict[str, Any]:
        content = [
            self._entry(entry.token, entry.logprob)
            | {"top_logprobs": [self._entry(*each) for each in entry.top]}
            for entry in entries
            if entry is not None
        ]
        return {"content": content, "refusal": None}

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        raw = list(self.texts.bytes_of(token))
        return {"token": self.texts.text(token), "logprob": logprob, "bytes": raw}
