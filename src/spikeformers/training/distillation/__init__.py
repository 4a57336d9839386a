"""Spike-Aware Alignment Distillation: a student learns from a frozen teacher (``spad.py``).

config  the choices        mapping      which layers, which shapes     objective  the weighted sum
teacher what it is asked   projections  between the two widths
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spikeformers.training.distillation.config import TERMS, SpADConfig, without

if TYPE_CHECKING:
    from spikeformers.training.distillation.objective import Distillation

__all__ = ["TERMS", "Distillation", "SpADConfig", "without"]


def __getattr__(name: str) -> Any:
    if name == "Distillation":
        from spikeformers.training.distillation.objective import Distillation

        return Distillation
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
