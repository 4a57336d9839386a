"""A server for spiking models behind OpenAI's interface, with what fired for every answer.

    spikeformers.serve("model.engine", port=8000)         # blocks until Ctrl-C
    app = serving.build_app(serving.ServeOptions("model.engine"))     # an ASGI application

One thread owns the engine (`scheduler`); the rest is asyncio. FastAPI, uvicorn, pydantic and
prometheus-client come with ``pip install 'spikeformers[serve]'`` and are imported nowhere else.
Neither torch nor Transformers is imported for an engine file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spikeformers.serving.options import ServeOptions

if TYPE_CHECKING:
    from spikeformers.serving.app import build_app
    from spikeformers.serving.server import serve

__all__ = ["ServeOptions", "build_app", "serve"]


def __getattr__(name: str) -> Any:
    """Load what needs the extra when it is first used, with a message where it is missing."""
    if name not in ("build_app", "serve"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from spikeformers.serving.options import require_extra

    require_extra()
    if name == "serve":
        from spikeformers.serving.server import serve

        return serve
    from spikeformers.serving.app import build_app

    return build_app
