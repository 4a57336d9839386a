"""Models in the forms that other programs run: the engine's file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spikeformers.export.opening import open_engine

if TYPE_CHECKING:
    from spikeformers.export.packing import WEIGHTS, pack

__all__ = ["WEIGHTS", "open_engine", "pack"]


def __getattr__(name: str) -> Any:
    """Load `packing` when it is first used: an engine file is opened without torch."""
    if name in ("WEIGHTS", "pack"):
        from spikeformers.export import packing

        return getattr(packing, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
