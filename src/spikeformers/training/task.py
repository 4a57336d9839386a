"""What a run trains and by which loss: the model's own, unless a subclass says otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from spikeformers.training.batches import MicroBatch
from spikeformers.training.config import TrainConfig
from spikeformers.training.distributed import World

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from spikeformers.data.store import TokenStore


class Task:
    """Pretraining. ``model`` is exported; ``module`` (it, or what holds it) is called and trained.

    Called with what ``inputs`` gives, ``module`` returns an output with ``loss``, and perhaps
    ``lm_loss``, ``rate_loss``, ``terms`` (name -> unweighted value) and ``contributions``
    (name -> what it adds to the loss). Called with a bare batch, it returns the model's output.
    """

    terms: tuple[str, ...] = ()
    """The named parts of the loss, each logged with the norm of the gradient it contributes."""

    leaves_unused: bool = False
    """Whether the loss may leave parameters without a gradient, which DDP has to be told."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.module: nn.Module = model

    def start(self, store: TokenStore, config: TrainConfig, world: World) -> None:
        """Check the request and get ready, before anything is written. Every rank calls this."""

    def inputs(self, part: MicroBatch, device: torch.device) -> dict[str, Any]:
        """Keyword arguments of ``module`` for one training micro-batch."""
        return part.to(device)

    def judge(self, part: MicroBatch, output: Any, device: torch.device) -> dict[str, float]:
        """More figures of a validation batch, each a mean over its tokens."""
        return {}

    def record(self) -> dict[str, Any]:
        """What a resumed run must have in common, for ``run.json``."""
        return {}

    def close(self) -> None:
        """Let go of what ``start`` opened."""
