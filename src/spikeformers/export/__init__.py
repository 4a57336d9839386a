"""Models in the forms that other programs run: the engine's file."""

from __future__ import annotations

from spikeformers.export.packing import WEIGHTS, pack

__all__ = ["WEIGHTS", "pack"]
