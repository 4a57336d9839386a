"""Responses: a whole answer that ends with its client, and a stream of server-sent events."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from spikeformers.serving.exchange import Exchange, as_json, until_disconnected
from spikeformers.serving.problems import Problem

logger = logging.getLogger(__name__)

STALL_SECONDS = 30.0  # that a client may take to read what was sent
GONE = 499  # of a client that left before its answer, in the metrics; it is never sent


ABORT = "spikeformers.abort"
"""Key of a scope: a function that ends the connection at once."""


class ClientStalled(Exception):
    """A client has not read what was sent."""


def answer_of(value: Any, status: int = 200) -> Response:
    """A JSON response."""
    return Response(as_json(value), status, media_type="application/json")


def problem_response(problem: Problem) -> Response:
    """An error in OpenAI's shape."""
    response = answer_of(problem.as_dict(), problem.status)
    response.headers.update(problem.headers)
    return response


async def whole_answer(exchange: Exchange, request: Request) -> Response:
    """The answer of an exchange, unless the client leaves first: then it is cancelled."""
    async with exchange:
        answer = asyncio.ensure_future(exchange.answer())
        left = asyncio.ensure_future(until_disconnected(request.receive))
        try:
            await asyncio.wait({answer, left}, return_when=asyncio.FIRST_COMPLETED)
            return answer_of(answer.result()) if answer.done() else Response(status_code=GONE)
        finally:
            await _end(answer, left)


class EventStream(Response):
    """Chunks of an exchange as server-sent events, which ends with ``data: [DONE]``.

    The status is that of the first event, so that what fails before has a status of its own. Where
    the client leaves, or does not read for 30 s, the exchange is cancelled.
    """

    media_type = "text/event-stream"

    def __init__(self, exchange: Exchange, include_usage: bool) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._exchange, self._include_usage = exchange, include_usage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        chunks = self._exchange.chunks(self._include_usage)
        sending = asyncio.ensure_future(self._send_all(chunks, scope, receive, send))
        left = asyncio.ensure_future(until_disconnected(receive))
        try:
            await asyncio.wait({sending, left}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        except ClientStalled:
            logger.warning("a client did not read its stream for %g s", STALL_SECONDS)
            if ABORT in scope:
                scope[ABORT]()
                await left
        finally:
            self._exchange.close()
            await _end(sending, left)

    async def _send_all(
        self,
        chunks: AsyncGenerator[dict[str, Any], None],
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        async with contextlib.aclosing(chunks):
            try:
                first = await anext(chunks, None)
            except Problem as problem:
                await problem_response(problem)(scope, receive, send)
                return
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            try:
                if first is not None:
                    await self._event(send, as_json(first))
                async for chunk in chunks:
                    await self._event(send, as_json(chunk))
                await self._event(send, b"[DONE]")
            except Problem as problem:
                await self._event(send, as_json(problem.as_dict()))
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _event(self, send: Send, data: bytes) -> None:
        body = b"data: " + data + b"\n\n"
        message = {"type": "http.response.body", "body": body, "more_body": True}
        try:
            await asyncio.wait_for(send(message), STALL_SECONDS)
        except asyncio.TimeoutError:
            raise ClientStalled from None


async def _end(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks and wait for their end, so that each has closed what it holds."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
