"""Models in the forms that other programs run: the engine's file, and NIR."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spikeformers.export.opening import open_engine

if TYPE_CHECKING:
    from spikeformers.export.nir import Coverage, export_nir
    from spikeformers.export.packing import WEIGHTS, pack

__all__ = ["WEIGHTS", "Coverage", "export_nir", "open_engine", "pack"]


def __getattr__(name: str) -> Any:
    """Load `packing` and `nir` when they are first used: an engine file is opened without torch."""
    if name in ("WEIGHTS", "pack"):
        from spikeformers.export import packing

        return getattr(packing, name)
    if name in ("Coverage", "export_nir"):
        from spikeformers.export import nir

        return getattr(nir, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
