"""Who may call: the API key, and the host names of a server on the loopback."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from spikeformers.serving.options import ServeOptions, is_loopback
from spikeformers.serving.problems import Problem
from spikeformers.serving.responses import problem_response

if TYPE_CHECKING:
    from spikeformers.serving.metrics import Metrics

OPEN_PATHS = ("/", "/health")
"""Paths that need no key."""
COUNTED_PATHS = (
    *("/", "/health", "/metrics", "/tokenize", "/detokenize", "/tokenizer_info"),
    *("/v1/completions", "/v1/chat/completions", "/v1/models", "/openapi.json"),
)


class Gate:
    """Refuses requests without the key, and counts the answers.

    On the loopback, without a key, other host names are refused: a web page whose own name resolves
    to this machine (DNS rebinding) could otherwise read the answers.
    """

    def __init__(self, app: ASGIApp, options: ServeOptions, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics
        self._key = options.api_key
        self._loopback_only = self._key is None and is_loopback(options.host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in COUNTED_PATHS else "other"

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.requests.labels(path, str(message["status"])).inc()
            await send(message)

        problem = self._refusal(Headers(scope=scope), scope["path"])
        answer = self._app if problem is None else problem_response(problem)
        await answer(scope, receive, counted)

    def _refusal(self, headers: Headers, path: str) -> Problem | None:
        if self._loopback_only and not is_loopback(host_name(headers.get("host", ""))):
            return Problem(
                403,
                "this server answers to localhost only. For another name, start it with --api-key.",
                code="host_not_allowed",
            )
        if self._key is None or path in OPEN_PATHS:
            return None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(given.strip().encode("latin-1", "replace"), self._key.encode())
        if scheme.lower() == "bearer" and same:
            return None
        what = "the API key is wrong" if given else "an API key is needed"
        return Problem(
            401, f"{what}: send the header 'Authorization: Bearer KEY'.", code="invalid_api_key"
        )


def host_name(host: str) -> str:
    """The name in a Host header, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
