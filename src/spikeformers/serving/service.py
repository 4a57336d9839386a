"""The model being served: engine, tokenizer and scheduler, which load in the background."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikeformers.errors import CheckpointError, UsageError
from spikeformers.export import open_engine
from spikeformers.packaged import engine_or_path
from spikeformers.serving.answers import TokenTexts
from spikeformers.serving.jobs import Event, Ticket
from spikeformers.serving.options import ServeOptions
from spikeformers.serving.problems import Problem
from spikeformers.serving.scheduler import Scheduler
from spikeformers.serving.spikes import SpikeMeter

if TYPE_CHECKING:
    from spikeformers.engine import Engine

Mail = asyncio.Queue[tuple[int, Event]]


class LoadedModel:
    """A model that is ready: ``name`` is what requests call it."""

    def __init__(self, options: ServeOptions, engine: Engine) -> None:
        path = Path(options.model).resolve()
        self.name = path.stem if path.is_file() else path.name
        self.engine, self.tokenizer = engine, engine.tokenizer
        self.context = engine.context if options.context is None else options.context
        if self.context > engine.context:
            raise UsageError(
                f"--context is {self.context}, and the model takes {engine.context} tokens at most."
            )
        self.meter = SpikeMeter(engine)
        self.texts = TokenTexts(self.tokenizer)
        self.fingerprint = _fingerprint(engine)
        self.created = int(time.time())

    def describe(self) -> dict[str, Any]:
        """The model's entry in /v1/models."""
        packed = self.engine.packed
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "spikeformers",
            "max_model_len": self.context,
            "vocabulary": self.engine.vocabulary,
            "weights": packed.weights,
            "architecture": packed.config.get("model_type"),
            "chat": self.tokenizer.chat_template is not None,
            "dense_weight_bytes": self.meter.dense_bytes(1, 1),
            "energy": {"label": "estimated", "prices": "horowitz45", "memory": self.meter.memory},
        }


class Service:
    """Loads the model, and carries events from the engine's thread to the requests."""

    def __init__(self, options: ServeOptions) -> None:
        self.options = options
        self.error: BaseException | None = None
        self._model: LoadedModel | None = None
        self._scheduler: Scheduler | None = None
        self._mail: dict[Ticket, Mail] = {}
        self._text_worker = ThreadPoolExecutor(1, thread_name_prefix="tokenizer")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._finished: Callable[[BaseException | None], None] = lambda error: None
        self._stopped = False

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return self._scheduler is not None

    @property
    def model(self) -> LoadedModel:
        """The model. Raises Problem 503 while it loads."""
        if self._model is None or self._scheduler is None:
            raise Problem(503, "the model is loading.", code="loading", retry_after=1)
        return self._model

    @property
    def scheduler(self) -> Scheduler:
        """The scheduler. Raises Problem 503 while the model loads."""
        if self._scheduler is None:
            raise Problem(503, "the model is loading.", code="loading", retry_after=1)
        return self._scheduler

    def start(self, finished: Callable[[BaseException | None], None]) -> None:
        """Begin to load; ``finished`` receives the error, or None when requests are taken."""
        self._loop = asyncio.get_running_loop()
        self._finished = finished
        # Not a thread of asyncio's, which would be waited for at Ctrl-C.
        threading.Thread(target=self._load, name="loading", daemon=True).start()

    async def stop(self) -> None:
        """End what runs and the engine's thread."""
        self._stopped = True
        if self._scheduler is not None:
            await asyncio.to_thread(self._scheduler.stop)
        self._text_worker.shutdown(wait=False, cancel_futures=True)

    async def on_text_worker(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Run ``work``, which tokenizes, beside the event loop, one at a time."""
        assert self._loop is not None
        return await self._loop.run_in_executor(self._text_worker, work, *arguments)

    def submit(self, tickets: Sequence[Ticket], mail: Mail) -> None:
        """Queue texts, whose events go to ``mail``. Raises Problem where they are not taken."""
        self._mail |= dict.fromkeys(tickets, mail)
        try:
            self.scheduler.submit(tickets)
        except Problem:
            self.forget(tickets)
            raise

    def forget(self, tickets: Sequence[Ticket]) -> None:
        """Cancel texts that still run; their events end."""
        if self._scheduler is not None:
            self._scheduler.cancel(tickets)
        for ticket in tickets:
            self._mail.pop(ticket, None)

    def _load(self) -> None:
        """In a thread of its own: open the model, then take requests."""
        try:
            model: LoadedModel | Exception = self._open()
        except Exception as error:
            model = error
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the server has ended meanwhile
            self._loop.call_soon_threadsafe(self._take_requests, model)

    def _take_requests(self, model: LoadedModel | Exception) -> None:
        if self._stopped:
            return
        if isinstance(model, Exception):
            self.error = model
        else:
            options = self.options
            self._model = model
            self._scheduler = Scheduler(
                model.engine, model.meter, self._outbox, slots=options.slots,
                max_queue=options.max_queue, context=model.context,
                prefix_cache=options.prefix_cache,
            )  # fmt: skip
            self._scheduler.start()
        self._finished(self.error)

    def _open(self) -> LoadedModel:
        options = self.options
        path = engine_or_path(options.model)
        if not path.exists():
            raise CheckpointError(f"there is no model at {path}: give an engine file or a folder.")
        engine = open_engine(path, threads=options.threads, weights=options.weights)
        return LoadedModel(options, engine)

    def _outbox(self, events: Sequence[tuple[Ticket, Event]]) -> None:
        """Called in the engine's thread, once per turn."""
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._deliver, events)

    def _deliver(self, events: Sequence[tuple[Ticket, Event]]) -> None:
        for ticket, event in events:
            mail = self._mail.get(ticket)
            if mail is not None:
                mail.put_nowait((ticket.index, event))


def _fingerprint(engine: Engine) -> str:
    """Names the version and the shape of the model, as OpenAI's system_fingerprint does."""
    from spikeformers import __version__

    packed = engine.packed
    shapes = {name: list(tensor.shape) for name, tensor in packed.tensors.items()}
    text = json.dumps([packed.config, packed.weights, shapes], sort_keys=True, default=str)
    return f"spikeformers-{__version__}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
