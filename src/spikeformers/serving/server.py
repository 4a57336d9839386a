"""Run the application until Ctrl-C: its socket, its signals, and what connections may do."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Generator
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from spikeformers.errors import UsageError
from spikeformers.serving.app import build_app
from spikeformers.serving.options import ServeOptions, key_from
from spikeformers.serving.responses import ABORT

HEADER_SECONDS = 20.0  # that a connection has for the head of a request
BACKLOG = 2048


def serve(
    model: str,
    *,
    on_message: Callable[[str], None] = lambda message: None,
    **options: Any,
) -> None:
    """Serve a model over HTTP until Ctrl-C or SIGTERM, in the interface of OpenAI.

    ``model`` is an engine file, or a model folder, which is packed first; ``options`` are those of
    `ServeOptions`, of which ``api_key`` may also come from SPIKEFORMERS_API_KEY. ``on_message``
    receives lines for people. The first Ctrl-C gives running requests ``grace`` seconds, the second
    cancels them. Raises UsageError for wrong options, a port that is taken and a model that the
    engine does not run, CheckpointError for what is not a model, EngineUnavailable without kernels.
    """
    if not options.get("no_auth"):
        options["api_key"] = key_from(options.get("api_key"))
    server = Server(ServeOptions(model, **options), on_message)
    on_message(f"loading {model}")
    server.run()
    if server.error is not None:
        raise server.error


class Server(uvicorn.Server):
    """Listens from the beginning; ends with the error of a model that cannot be loaded.

    ``address`` is where, with the port that was taken. Raises UsageError if it cannot listen.
    """

    def __init__(
        self, options: ServeOptions, on_message: Callable[[str], None] = lambda message: None
    ) -> None:
        self.error: BaseException | None = None
        self._say, self._grace = on_message, options.grace
        self._listener = _listen(options.host, options.port)
        self.address = _address(options.host, self._listener.getsockname()[1])
        app = build_app(options, self._loaded)
        self.service = app.state.service
        super().__init__(
            uvicorn.Config(
                app,
                http=_Protocol,
                ws="none",
                loop="asyncio",
                lifespan="on",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=15,
            )
        )

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until a signal, or until ``should_exit`` is set."""
        with self._listener:
            super().run(sockets or [self._listener])

    def _loaded(self, error: BaseException | None) -> None:
        if error is not None:
            self.error, self.should_exit = error, True
            return
        model = self.service.model
        self._say(
            f"serving {model.name} ({model.engine.packed.weights}, "
            f"threads: {model.engine.threads}, context: {model.context}) "
            f"at {self.address}; Ctrl-C stops"
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let requests finish for a while, then fail what is left with 503."""
        if self.service.ready:
            scheduler = self.service.scheduler
            scheduler.refuse_more()
            if not self.force_exit and scheduler.active + scheduler.waiting:
                self._say(f"finishing requests for up to {self._grace:g} s; Ctrl-C cancels them")
            end = asyncio.get_running_loop().time() + self._grace
            while (
                scheduler.active + scheduler.waiting
                and not self.force_exit
                and asyncio.get_running_loop().time() < end
            ):
                await asyncio.sleep(0.02)
            await asyncio.to_thread(scheduler.stop)
        self.config.timeout_graceful_shutdown = 2
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            transport = getattr(connection, "transport", None)
            if transport is not None:
                transport.abort()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """As uvicorn's, but a handled signal is not raised again afterwards."""
        handled = (signal.SIGINT, signal.SIGTERM)
        try:
            before = {sig: signal.signal(sig, self.handle_exit) for sig in handled}
        except ValueError:  # signals only reach the main thread
            yield
            return
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)


class _Protocol(H11Protocol):
    """Ends connections that do not send the head of a request in time, or read no answer.

    A request's scope has a function that ends its connection at once (`responses.ABORT`).
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._arrival: asyncio.TimerHandle | None = None
        self._unsent = 0  # bytes of the last answer, at the last look
        app = self.app

        async def with_abort(scope: Any, receive: Any, send: Any) -> None:
            scope[ABORT] = self.transport.abort
            await app(scope, receive, send)

        self.app = with_abort

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # asyncio sets it only for sockets that name TCP as their protocol; without it each token
        # waits for the client to acknowledge the one before, up to 40 ms.
        connection = transport.get_extra_info("socket")
        if connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def _watch(self) -> None:
        """Start the timer while a head, or the rest of a refused body, is awaited; else end it."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._unwatch()
        elif self._arrival is None:
            self._arrival = self.loop.call_later(HEADER_SECONDS, self._too_slow)

    def _unwatch(self) -> None:
        if self._arrival is not None:
            self._arrival.cancel()
            self._arrival = None

    def _too_slow(self) -> None:
        self._arrival = None
        before, self._unsent = self._unsent, self.transport.get_write_buffer_size()
        if self._unsent and (not before or self._unsent < before):  # it still reads
            self._watch()
        else:
            self.transport.abort()


def _listen(host: str, port: int) -> socket.socket:
    bare = host.strip("[]")
    try:
        family = socket.getaddrinfo(bare, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((bare, port), family=family, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"the server cannot listen on {host} port {port}: {reason}. Choose another with "
            "--port (0 takes a free one)."
        ) from error


def _address(host: str, port: int) -> str:
    shown = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return f"http://{shown}:{port}"
