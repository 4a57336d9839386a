"""Continuous batching: one thread owns the engine, and texts join and leave between its steps.

    a turn:  texts that wait take free slots; texts that were cancelled leave theirs;
             one block of the prompt that is read at present; one token of every text being written

So nobody who is writing waits for more than a block of 64 tokens, and a text that is cancelled
leaves within a step. Prompts are read one after the other, so that the second of two with the same
beginning finds it in the prefix cache. A step gives each text the bits that it gets alone, and each
has its own random generator: the same seed gives the same text, whoever else is there.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spikeformers.errors import SpikeformersError
from spikeformers.serving.jobs import Ended, Event, Failed, Ticket
from spikeformers.serving.prefix_cache import PrefixCache
from spikeformers.serving.problems import Problem
from spikeformers.serving.slot import Slot

if TYPE_CHECKING:
    from spikeformers.engine import Engine
    from spikeformers.serving.spikes import SpikeMeter

logger = logging.getLogger(__name__)
Outbox = Callable[[Sequence[tuple[Ticket, Event]]], None]
"""Receives the events of a turn, in the engine's thread."""
SMOOTHING = 0.1  # of the mean time that a text takes


@dataclass
class Totals:
    """Counts since the start."""

    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    new_tokens: int = 0
    cancelled: int = 0
    failed: int = 0


class Scheduler:
    """Writes texts with one engine; `submit` and `cancel` may be called from any thread."""

    def __init__(
        self,
        engine: Engine,
        meter: SpikeMeter,
        outbox: Outbox,
        *,
        slots: int,
        max_queue: int,
        context: int,
        prefix_cache: int,
    ) -> None:
        self.slots, self.max_queue, self.context = slots, max_queue, context
        self.totals = Totals()
        self.cache = PrefixCache(engine, prefix_cache)
        self._engine, self._meter, self._outbox = engine, meter, outbox
        self._changed = threading.Condition()
        self._waiting: deque[Ticket] = deque()
        self._reading: deque[Slot] = deque()
        self._writing: list[Slot] = []
        self._began: dict[Ticket, float] = {}
        self._mean_seconds = 1.0
        self._accepts = self._runs = True
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the engine's thread."""
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Texts that wait for a slot."""
        return len(self._waiting)

    @property
    def active(self) -> int:
        """Texts in slots."""
        return len(self._reading) + len(self._writing)

    def submit(self, tickets: Sequence[Ticket]) -> None:
        """Queue texts, all or none. Raises Problem 429 where the queue is full, 503 at the end."""
        with self._changed:
            if not self._accepts:
                raise Problem(503, "the server is shutting down.", code="shutting_down")
            free = max(0, self.slots - self.active)
            if len(self._waiting) + len(tickets) > self.max_queue + free:
                seconds = self._mean_seconds * (len(self._waiting) + 1) / self.slots
                raise Problem(
                    429,
                    f"the queue is full: {len(self._waiting)} texts wait, and {self.active} are "
                    "being written. Try again later.",
                    code="queue_full",
                    retry_after=max(1, min(60, math.ceil(seconds))),
                )
            self._waiting.extend(tickets)
            self._changed.notify()

    def cancel(self, tickets: Sequence[Ticket]) -> None:
        """Forget texts; nothing more is reported of them."""
        with self._changed:
            for ticket in tickets:
                ticket.cancelled = True
            self._waiting = deque(each for each in self._waiting if not each.cancelled)
            self._changed.notify()

    def refuse_more(self) -> None:
        """Take no more texts; those that were submitted continue."""
        with self._changed:
            self._accepts = False

    def stop(self) -> None:
        """End the engine's thread after its present step; what runs fails with 503."""
        with self._changed:
            self._accepts = self._runs = False
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    # --- the engine's thread ----------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._runs and not (self._waiting or self.active):
                    self._changed.wait()
                if not self._runs:
                    break
                self._admit()
            self._turn()
        problem = Problem(503, "the server is shutting down.", code="shutting_down")
        slots = [*self._reading, *self._writing]
        self._send([(each, Failed(problem)) for each in self._waiting])
        self._send([(slot.ticket, Failed(problem)) for slot in slots])

    def _admit(self) -> None:
        while self._waiting and self.active < self.slots:
            ticket = self._waiting.popleft()
            self._began[ticket] = time.monotonic()
            try:
                slot = Slot(ticket, self._engine, self._meter, self.context)
            except SpikeformersError as error:
                self._fail([ticket], error)
                continue
            self._reading.append(slot)

    def _turn(self) -> None:
        events: list[tuple[Ticket, Event]] = []
        self._drop_overdue(events)
        if self._reading:
            self._read(self._reading[0], events)
        if self._writing:
            self._write(events)
        for ticket, event in events:
            if isinstance(event, (Ended, Failed)):
                self._leave(ticket, isinstance(event, Failed))
        self._send(events)

    def _drop_overdue(self, events: list[tuple[Ticket, Event]]) -> None:
        now = time.monotonic()
        late = Failed(Problem(504, "the request took longer than --timeout.", code="timeout"))
        with self._changed:
            overdue = [each for each in self._waiting if each.deadline < now]
            self._waiting = deque(each for each in self._waiting if each.deadline >= now)
        events += [(ticket, late) for ticket in overdue]
        for slot in [*self._reading, *self._writing]:
            if slot.ticket.cancelled:
                self.totals.cancelled += 1
                self._leave(slot.ticket, failed=False)
            elif slot.ticket.deadline < now:
                events.append((slot.ticket, late))
                self._leave(slot.ticket, failed=True)

    def _read(self, slot: Slot, events: list[tuple[Ticket, Event]]) -> None:
        before = 0 if slot.sequence is None else slot.sequence.tokens
        try:
            slot_events = slot.read_block(self.cache)
        except Exception as error:  # whatever it is, the others continue
            self._fail([slot.ticket], error)
            return
        assert slot.sequence is not None
        cached = slot.cached if before == 0 else 0
        self.totals.cached_tokens += cached
        self.totals.prompt_tokens += slot.sequence.tokens - before - cached
        events += [(slot.ticket, event) for event in slot_events]
        if slot.prompt_read:
            self._reading.popleft()
            self._writing.append(slot)
            self.totals.new_tokens += len(slot.new)

    def _write(self, events: list[tuple[Ticket, Event]]) -> None:
        done = {ticket for ticket, event in events if isinstance(event, Ended)}
        slots = [slot for slot in self._writing if slot.ticket not in done]
        if not slots:
            return
        try:
            logits = self._engine.step(
                [slot.sequence for slot in slots if slot.sequence is not None],
                [slot.new[-1] for slot in slots],
            )
        except Exception as error:
            self._fail([slot.ticket for slot in slots], error)
            return
        self.totals.steps += 1
        for slot, row in zip(slots, logits, strict=True):
            try:
                slot_events = slot.accept(row, self.cache)
            except Exception as error:
                self._fail([slot.ticket], error)
                continue
            self.totals.new_tokens += 1
            events += [(slot.ticket, event) for event in slot_events]

    def _fail(self, tickets: Sequence[Ticket], error: Exception) -> None:
        """Report texts that the engine cannot continue."""
        is_expected = isinstance(error, SpikeformersError)
        if not is_expected:
            logger.error("a text failed", exc_info=error)
        message = str(error) if is_expected else f"the text failed: {type(error).__name__}."
        problem = Problem(503, message, code="engine_error")
        for ticket in tickets:
            self._leave(ticket, failed=True)
        self._send([(ticket, Failed(problem)) for ticket in tickets])

    def _leave(self, ticket: Ticket, failed: bool) -> None:
        self._reading = deque(slot for slot in self._reading if slot.ticket is not ticket)
        self._writing = [slot for slot in self._writing if slot.ticket is not ticket]
        began = self._began.pop(ticket, None)
        if began is None:  # it left before, or never had a slot
            return
        self.totals.failed += failed
        if not failed and not ticket.cancelled:
            seconds = time.monotonic() - began
            self._mean_seconds += SMOOTHING * (seconds - self._mean_seconds)

    def _send(self, events: Sequence[tuple[Ticket, Event]]) -> None:
        wanted = [(ticket, event) for ticket, event in events if not ticket.cancelled]
        if wanted:
            self._outbox(wanted)
