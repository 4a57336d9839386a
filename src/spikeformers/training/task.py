"""What a run trains, on what, by which loss: a language model's own, unless a subclass says so."""

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
    from transformers import PreTrainedModel


Measure = Callable[[nn.Module], dict[str, float]]
"""Figures of the trained module on held-out data."""


class Part(Protocol):
    """What one forward pass takes; ``targets`` labels count in its mean loss."""

    @property
    def targets(self) -> int: ...

    def to(self, device: torch.device) -> dict[str, torch.Tensor]:
        """Keyword arguments of a model."""


class Batches(Protocol):
    """The micro-batches of each step, a pure function of the seed and the step."""

    def of(self, step: int) -> Sequence[Part]: ...


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

    unit: str = "token"
    """What steps are counted in."""

    plain_loss: str = "lm_loss"
    """Name of the loss without penalties in the log; none is logged where it is empty."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.module: nn.Module = model

    def data(
        self, store: Any, tokenizer: Any, config: TrainConfig, world: World, precision: Precision
    ) -> tuple[Batches, Measure]:
        """The batches to train on, and how the model is validated; before anything is written."""
        objective = make_objective(self.model, tokenizer, config)
        text = store.split("train")
        text.check_vocabulary(self.model.config.vocab_size)
        batches = TrainBatches(text, objective, config, world)
        held_out = store.split("validation")
        held_out.check_vocabulary(self.model.config.vocab_size)
        if held_out.num_tokens < 2:
            raise DataError("The validation text is empty. Give a corpus with more documents.")

        def measure(trained: nn.Module) -> dict[str, float]:
            metrics = self.validation_metrics
            return validate(trained, held_out, objective, config, world, precision, metrics)

        return batches, measure

    def per_step(self, config: TrainConfig) -> int:
        """Units of a step, over all ranks."""
        return config.tokens_per_step

    def start(self, store: Any, config: TrainConfig, world: World) -> None:
        """Check the request and get ready, before anything is written. Every rank calls this."""

    def inputs(self, part: Any, device: torch.device) -> dict[str, Any]:
        """Keyword arguments of ``module`` for one training micro-batch."""
        given: dict[str, Any] = part.to(device)
        return given

    def validation_metrics(
        self, part: MicroBatch, output: Any, device: torch.device
    ) -> dict[str, float]:
        """Further metrics of a validation batch, each a mean over its tokens."""
        return {}

    def measured(self) -> dict[str, Any]:
        """More figures of a logged step, while its gradients are there."""
        return {}

    def stepped(self, world: World) -> None:
        """The optimiser has made a step."""

    def finish(self) -> None:
        """Training is complete: make ``model`` what is exported."""

    def record(self) -> dict[str, Any]:
        """What a resumed run must have in common, for ``run.json``."""
        return {}

    def close(self) -> None:
        """Let go of what ``start`` opened."""
