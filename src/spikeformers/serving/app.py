"""The ASGI application: paths, errors, who may call."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from spikeformers.serving.gate import Gate
from spikeformers.serving.metrics import Metrics
from spikeformers.serving.options import ServeOptions
from spikeformers.serving.problems import Problem
from spikeformers.serving.responses import problem_response
from spikeformers.serving.routes import make_router
from spikeformers.serving.service import Service

logger = logging.getLogger(__name__)


def build_app(
    options: ServeOptions, finished: Callable[[BaseException | None], None] = lambda error: None
) -> FastAPI:
    """The application of one model, which loads when the server starts.

    ``finished`` receives the error of loading, or None when the model is ready. ``app.state`` has
    the ``service``.
    """
    from spikeformers import __version__

    service = Service(options)
    metrics = Metrics(service)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start(finished)
        yield
        await service.stop()

    app = FastAPI(
        title="spikeformers",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # its pages fetch scripts from elsewhere
        redoc_url=None,
    )
    app.state.service = service
    app.include_router(make_router(service, metrics))
    app.add_middleware(Gate, options=options, metrics=metrics)
    if options.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(options.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["Retry-After"],
        )

    @app.exception_handler(Problem)
    async def on_problem(request: Request, problem: Problem) -> Response:
        return problem_response(problem)

    @app.exception_handler(HTTPException)
    async def on_http_exception(request: Request, error: HTTPException) -> Response:
        text = {404: f"there is nothing at {request.url.path}.", 405: "another method is needed."}
        message = text.get(error.status_code, str(error.detail))
        response = problem_response(Problem(error.status_code, message))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def on_error(request: Request, error: Exception) -> Response:
        logger.error("a request failed", exc_info=error)
        return problem_response(Problem(500, "the server failed; its log says why."))

    return app
