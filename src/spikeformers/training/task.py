"""What a run trains and by which loss: the model's own, unless a subclass says otherwise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from spikeformers.errors import DataError
from spikeformers.training.batches import MicroBatch, TrainBatches, make_objective
from spikeformers.training.config import TrainConfig
from spikeformers.training.distributed import World
from spikeformers.training.precision import Precision
from spikeformers.training.validation import validate

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Measure = Callable[[nn.Module], dict[str, float]]
"""Figures of the trained module on held-out data."""


class Batches(Protocol):
    """This rank's micro-batches of each step, a pure function of it."""

    def of(self, step: int) -> Sequence[MicroBatch]: ...


class Store(Protocol):
    """What a run is given to train on; the manifest goes into ``run.json``."""

    manifest: dict[str, Any]


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

    def data(
        self,
        store: Any,
        tokenizer: PreTrainedTokenizerBase,
        config: TrainConfig,
        world: World,
        precision: Precision,
    ) -> tuple[Batches, Measure]:
        """The batches to train on, and how the model is validated; before anything is written."""
        objective = make_objective(self.model, tokenizer, config)
        batches = TrainBatches(store.split("train"), objective, config, world)
        held_out = store.split("validation")
        if held_out.num_tokens < 2:
            raise DataError("The validation text is empty. Give a corpus with more documents.")

        def measure(trained: nn.Module) -> dict[str, float]:
            return validate(trained, held_out, objective, config, world, precision, self.judge)

        return batches, measure

    def start(self, store: Any, config: TrainConfig, world: World) -> None:
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
