"""Training: one loop on torchrun, DDP or FSDP2, with checkpoints that resume exactly.

``TrainConfig`` loads at once, for command lines that show its defaults; ``train`` brings torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spikeformers.training.config import TrainConfig

if TYPE_CHECKING:
    from spikeformers.training.loop import TrainResult, train

__all__ = ["TrainConfig", "TrainResult", "train"]


def __getattr__(name: str) -> Any:
    if name in ("TrainResult", "train"):
        from spikeformers.training import loop

        return getattr(loop, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
