"""One request and its texts: submitted together, cancelled together."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from starlette.types import Receive

from spikeformers.serving.answers import ChatForm, Piece, Usage
from spikeformers.serving.jobs import Ended, Event, Failed, PromptRead, Ticket
from spikeformers.serving.problems import Problem

if TYPE_CHECKING:
    from spikeformers.serving.metrics import Metrics
    from spikeformers.serving.prepare import Prepared
    from spikeformers.serving.service import Mail, Service


class Exchange:
    """An asynchronous context in which a request's texts are written."""

    def __init__(self, service: Service, metrics: Metrics, prepared: Prepared) -> None:
        self._service, self._metrics, self._prepared = service, metrics, prepared
        self._mail: Mail = asyncio.Queue()
        self._tickets: list[Ticket] = []

    async def __aenter__(self) -> Exchange:
        self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def open(self) -> None:
        """Submit the texts. Raises Problem where they are not taken."""
        self._began = time.monotonic()
        deadline = self._began + self._service.options.timeout
        jobs = self._prepared.jobs
        self._tickets = [Ticket(job, index, deadline) for index, job in enumerate(jobs)]
        self._service.submit(self._tickets, self._mail)

    def close(self) -> None:
        """Cancel what still runs; who waits for events gets a Problem."""
        self._service.forget(self._tickets)
        self._tickets = []
        # A task cancelled while `asyncio.wait_for` ended may continue (Python before 3.12).
        closed = Problem(503, "the request was cancelled.", code="cancelled")
        self._mail.put_nowait((0, Failed(closed)))

    async def events(self) -> AsyncGenerator[tuple[int, Event], None]:
        """Events by index of the text, until all have ended. Raises Problem where one fails."""
        left, began = len(self._tickets), False
        while left:
            index, event = await self._mail.get()
            if isinstance(event, Failed):
                raise event.problem
            if not began and not isinstance(event, PromptRead):
                self._metrics.first_token.observe(time.monotonic() - self._began)
                began = True
            left -= isinstance(event, Ended)
            yield index, event
        self._metrics.duration.observe(time.monotonic() - self._began)

    async def answer(self) -> dict[str, Any]:
        """The whole answer."""
        prepared = self._prepared
        usage = Usage(prompt_tokens=prepared.prompt_tokens)
        pieces = [Piece(text) for text in prepared.begins]
        reasons: list[str] = [""] * len(pieces)
        async for index, event in self.events():
            piece = pieces[index]
            if isinstance(event, PromptRead):
                piece.logprobs += event.logprobs
                usage.add(event)
            elif isinstance(event, Ended):
                piece.text += event.text
                reasons[index] = event.reason
                usage.add(event)
            elif not isinstance(event, Failed):
                piece.add(event)
        choices = [
            prepared.form.choice(index, piece, reasons[index], part=False)
            for index, piece in enumerate(pieces)
        ]
        return prepared.form.whole(choices, usage)

    async def chunks(self, include_usage: bool) -> AsyncGenerator[dict[str, Any], None]:
        """The chunks of a stream; with ``include_usage`` the last has the usage and no choices."""
        prepared, form = self._prepared, self._prepared.form
        usage = Usage(prompt_tokens=prepared.prompt_tokens)
        pieces = [Piece(text) for text in prepared.begins]

        def chunk(choice: dict[str, Any]) -> dict[str, Any]:
            part = form.chunk([choice], None)
            return part | {"usage": None} if include_usage else part

        async with contextlib.aclosing(self.events()) as events:
            async for index, event in events:
                piece = pieces[index]
                if isinstance(event, Failed):
                    continue
                if isinstance(event, PromptRead):
                    usage.add(event)
                    piece.logprobs += event.logprobs
                    if isinstance(form, ChatForm):
                        yield chunk(form.opening(index))
                elif isinstance(event, Ended):
                    usage.add(event)
                    piece.text += event.text
                    yield chunk(form.choice(index, piece, event.reason, part=True))
                    continue
                else:
                    piece.add(event)
                if piece.text:
                    yield chunk(form.choice(index, piece, None, part=True))
                    pieces[index] = Piece()
        if include_usage:
            yield form.chunk([], usage)


async def until_disconnected(receive: Receive) -> None:
    """Return when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


def as_json(value: Any) -> bytes:
    """Compact UTF-8, in which NaN and infinity are errors."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")
