"""A conversation with an engine, which reads only what is new of it.

    chat = spikeformers.Chat(spikeformers.load_engine("model.engine"))
    print(chat.answer("What is a spike?").text)
    print(chat.stats.density)

With a chat template the messages are rendered by it. Without one the model continues a text: each
message is a new line of it, and the answer is what follows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from spikeformers.engine import Engine, SpikeCost
from spikeformers.engine.sampling import make_sampler
from spikeformers.errors import UsageError
from spikeformers.foreign import foreign
from spikeformers.generation.generating import prompt_ids, why_ended
from spikeformers.generation.text_stream import TextStream

BLOCK = 64  # tokens of a prompt between two looks at whether to stop


@dataclass(frozen=True)
class ChatStats:
    """What answers took; the seconds are measured, the counts are the engine's."""

    answers: int = 0
    tokens: int = 0
    """Written."""
    read: int = 0
    """Tokens that went through the layers: of prompts, and written ones."""
    predictions: int = 0
    """Tokens after which the head computed logits."""
    seconds: float = 0.0
    """Reading the prompts included."""
    cost: SpikeCost = field(default_factory=lambda: SpikeCost(0, 0, 0))

    @property
    def tokens_per_second(self) -> float:
        """Written tokens by wall-clock time, reading the prompts included."""
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def density(self) -> float:
        """Fraction of the computed neurons that fired."""
        return self.cost.density

    def __add__(self, other: ChatStats) -> ChatStats:
        return ChatStats(
            self.answers + other.answers,
            self.tokens + other.tokens,
            self.read + other.read,
            self.predictions + other.predictions,
            self.seconds + other.seconds,
            self.cost + other.cost,
        )


@dataclass(frozen=True)
class ChatAnswer:
    """An answer and what it took."""

    text: str
    finish_reason: str
    """"end" (the end token), "length" (``max_new_tokens``), "context", or "stopped"."""
    stats: ChatStats


class Chat:
    """A conversation. It counts by the engine's counters, so nothing else may run the engine.

    The same seed gives the same conversation for the same messages. Raises UsageError for sampling
    that there is not, and for a ``system`` message without a chat template.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        system: str | None = None,
        max_new_tokens: int = 256,
        temperature: float = 0.8,
        top_k: int = 50,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> None:
        if max_new_tokens < 1:
            raise UsageError(f"max_new_tokens is {max_new_tokens}; it must be at least 1.")
        self.engine, self.tokenizer = engine, engine.tokenizer
        self.max_new_tokens = max_new_tokens
        self._sampling = (temperature, top_k, top_p, seed)
        if system is not None and not self.has_template:
            raise UsageError(
                "this tokenizer has no chat template, so the model continues a text and takes no "
                "system message."
            )
        self._system = [] if system is None else [{"role": "system", "content": system}]
        self.stats = ChatStats()
        self.reset()

    @property
    def has_template(self) -> bool:
        """Whether messages are rendered by a chat template; if not, a text is continued."""
        return bool(self.tokenizer.chat_template)

    def reset(self) -> None:
        """Begin a new conversation, by the same seed; the statistics stay."""
        self.messages: list[dict[str, str]] = list(self._system)
        self._choose = make_sampler(*self._sampling)
        self._text = ""  # without a template: messages and answers so far
        self._begin([])

    def answer(
        self,
        message: str,
        *,
        show: Callable[[str], None] = lambda piece: None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> ChatAnswer:
        """Answer a message; ``show`` receives each piece of text as soon as it is certain.

        It ends where ``stopped()`` is true, which is asked before each token, and keeps what was
        written. Raises UsageError if the conversation fills the context; it is unchanged then.
        """
        began, before = time.perf_counter(), self.engine.counters()
        ids = self._ids(message)
        room = min(self.max_new_tokens, self.engine.context - len(ids))
        if room < 1:
            raise UsageError(
                f"the conversation is longer than the context: with this message it has {len(ids)} "
                f"tokens, and the model takes {self.engine.context}. Begin a new one."
            )
        self._predictions = 0
        stream, reason = TextStream(self.tokenizer, ids), "stopped"
        new: list[int] = []
        if self._read(ids, stopped):
            reason = self._write(stream, new, room, show, stopped)
        show(stream.finish())
        self._remember(message, stream.text)
        after = self.engine.counters()
        tokens, *cost = (
            after[key] - before[key] for key in ("tokens", "neurons", "events", "weight_bytes")
        )
        seconds = time.perf_counter() - began
        stats = ChatStats(1, len(new), tokens, self._predictions, seconds, SpikeCost(*cost))
        self.stats += stats
        return ChatAnswer(stream.text, reason, stats)

    def _write(
        self,
        stream: TextStream,
        new: list[int],
        room: int,
        show: Callable[[str], None],
        stopped: Callable[[], bool],
    ) -> str:
        """Write up to ``room`` tokens into ``new``; returns why the answer ended."""
        end = self.tokenizer.eos_token_id
        while not stopped():
            token = self._choose(self._logits)
            new.append(token)
            show(stream.push(token))
            if token == end or len(new) == room:
                return why_ended(stream, new, end, self.max_new_tokens)
            self._feed([token])
        return "stopped"

    def _ids(self, message: str) -> list[int]:
        """Tokens of the conversation up to where the answer to ``message`` begins."""
        rows = self.engine.vocabulary
        if not self.has_template:
            return prompt_ids(self.tokenizer, self._continued(message), rows)
        messages = [*self.messages, {"role": "user", "content": message}]
        with foreign("the chat template cannot be used"):
            text = self.tokenizer.apply_chat_template(messages)
        return prompt_ids(self.tokenizer, text, rows, special=False)

    def _continued(self, message: str) -> str:
        """The text so far, with the message as a new line."""
        between = "\n" if self._text and not self._text.endswith("\n") else ""
        return self._text + between + message

    def _remember(self, message: str, answer: str) -> None:
        self._text = self._continued(message) + answer
        self.messages += [
            {"role": "user", "content": message},
            {"role": "assistant", "content": answer},
        ]

    def _begin(self, ids: Sequence[int]) -> None:
        self._sequence = self.engine.sequence()
        self._tokens: list[int] = list(ids)  # that the sequence has read

    def _read(self, ids: Sequence[int], stopped: Callable[[], bool]) -> bool:
        """Read what is new of ``ids``, all of them if they differ from what was read before.

        Returns False if it was stopped.
        """
        length = len(self._tokens)
        if length >= len(ids) or list(ids[:length]) != self._tokens:
            self._begin([])
        for start in range(len(self._tokens), len(ids), BLOCK):
            if stopped():
                return False
            self._feed(ids[start : start + BLOCK])
        return True

    def _feed(self, ids: Sequence[int]) -> None:
        self._logits = self.engine.feed(self._sequence, ids)
        self._tokens += ids
        self._predictions += 1
