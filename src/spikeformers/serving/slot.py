"""One text in a slot of the engine: what was read, what was drawn, and what is reported of it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from spikeformers.engine.sampling import adjusted, make_sampler
from spikeformers.generation import TextStream, why_ended
from spikeformers.serving.jobs import Ended, Event, NewToken, PromptRead, Ticket
from spikeformers.serving.logprobs import TokenLogprob, logprob_of
from spikeformers.serving.prefix_cache import BLOCK

if TYPE_CHECKING:
    from spikeformers.engine import Engine
    from spikeformers.kernels._native import Sequence as NativeSequence
    from spikeformers.serving.prefix_cache import PrefixCache
    from spikeformers.serving.spikes import SpikeMeter


class Slot:
    """Reads a ticket's prompt block by block, then accepts logits until the text ends."""

    def __init__(self, ticket: Ticket, engine: Engine, meter: SpikeMeter, context: int) -> None:
        job, sampling = ticket.job, ticket.job.sampling
        self.ticket, self._engine, self._meter = ticket, engine, meter
        self.ids = list(job.ids)
        self.new: list[int] = []
        self._room = min(job.max_new, context - len(self.ids))
        self._end = engine.tokenizer.eos_token_id
        self._stream = TextStream(engine.tokenizer, self.ids, job.stop)
        self._choose = make_sampler(
            sampling.temperature, sampling.top_k, sampling.top_p, sampling.seed, sampling.min_p
        )
        self._counts: Counter[int] = Counter()
        self._prompt_logprobs: list[TokenLogprob | None] = [None]
        self._predicted = 0  # tokens whose logits were computed
        self.cached = 0
        self.sequence: NativeSequence | None = None

    @property
    def prompt_read(self) -> bool:
        """Whether the whole prompt was read."""
        return self.sequence is not None and self.sequence.tokens >= len(self.ids)

    def read_block(self, cache: PrefixCache) -> list[Event]:
        """Read the prompt up to the next whole block, or to its end."""
        job = self.ticket.job
        if self.sequence is None:
            self.sequence = cache.begin([] if job.prompt_logprobs else self.ids)
            self._engine.keep_details(self.sequence)
            self.cached = self.sequence.tokens
        start = self.sequence.tokens
        stop = min(len(self.ids), (start // BLOCK + 1) * BLOCK)
        logits = self._engine.feed_all(
            self.sequence, self.ids[start:stop], last=not job.prompt_logprobs
        )
        self._predicted += len(logits)
        cache.keep(self.ids[:stop] if stop % BLOCK == 0 else [], self.sequence)
        if job.prompt_logprobs:
            for row, token in zip(logits, self.ids[start + 1 : stop + 1], strict=False):
                self._prompt_logprobs.append(logprob_of(row, token, job.logprobs or 0))
        if stop < len(self.ids):
            return []
        logprobs = tuple(self._prompt_logprobs) if job.prompt_logprobs else ()
        return [PromptRead(self.cached, logprobs), *self._next(logits[-1])]

    def accept(self, logits: NDArray[np.float32], cache: PrefixCache) -> list[Event]:
        """Draw a token from the logits ``[V]`` that followed the last one."""
        assert self.sequence is not None
        self._predicted += 1
        if self.sequence.tokens % BLOCK == 0:
            cache.keep(self.ids + self.new, self.sequence)
        return self._next(logits)

    def _next(self, logits: NDArray[np.float32]) -> list[Event]:
        if self._room == 0:
            return [self._ended()]
        job = self.ticket.job
        sampling = job.sampling
        changed = adjusted(
            *(logits, sampling.bias, self._counts),
            *(sampling.presence_penalty, sampling.frequency_penalty),
        )
        token = self._choose(changed)
        self.new.append(token)
        self._counts[token] += 1
        text = self._stream.push(token)
        logprob = None if job.logprobs is None else logprob_of(logits, token, job.logprobs)
        spikes = None
        if job.spike_details:
            assert self.sequence is not None
            spikes = self._meter.token(token, text, self._engine.details(self.sequence))
        event = NewToken(token, text, logprob, spikes)
        if self._stream.stopped or token == self._end or len(self.new) == self._room:
            return [event, self._ended()]
        return [event]

    def _ended(self) -> Ended:
        assert self.sequence is not None
        text = self._stream.finish()
        reason = why_ended(self._stream, self.new, self._end, self.ticket.job.max_new)
        details = self._engine.details(self.sequence)
        usage = self._meter.usage(details.total, details.tokens, self._predicted)
        return Ended(text, reason, len(self.new), usage)
