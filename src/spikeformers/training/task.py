"""The task of a run: model, data and loss. The base class pretrains a language model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from spikeformers.errors import DataError
from spikeformers.training.batches import MicroBatch, TrainBatches, make_objective
from spikeformers.training.config import TrainConfig
from spikeformers.training.distributed import World
from spikeformers.training.precision import ForwardPrecision
from spikeformers.training.utilisation import training_flops_per_token
from spikeformers.training.validation import validate

if TYPE_CHECKING:
    from transformers import PreTrainedModel


Measure = Callable[[nn.Module], dict[str, float]]
"""Computes metrics of the trained module on held-out data."""


class Part(Protocol):
    """The input of one forward pass; ``targets`` is the number of labels in its mean loss."""

    @property
    def targets(self) -> int: ...

    def to(self, device: torch.device) -> dict[str, torch.Tensor]:
        """Keyword arguments of a model."""


class Batches(Protocol):
    """The micro-batches of each step, a pure function of the seed and the step."""

    def of(self, step: int) -> Sequence[Part]: ...


class Store(Protocol):
    """The training data of a run; the manifest goes into ``run.json``."""

    manifest: dict[str, Any]


class Task:
    """Pretraining. ``model`` is exported; ``module`` (the model, or a wrapper) is trained.

    Called with the result of ``inputs``, ``module`` returns an output with ``loss``, and perhaps
    ``lm_loss``, ``rate_loss``, ``terms`` (name -> unweighted value) and ``contributions``
    (name -> summand of the loss). Called with a plain batch, it returns the model's output.
    """

    terms: tuple[str, ...] = ()
    """The named parts of the loss, each logged with the norm of the gradient it contributes."""

    leaves_unused: bool = False
    """Whether some parameters may get no gradient, which DDP has to know."""

    unit: str = "token"
    """The unit in which training data are counted."""

    plain_loss: str = "lm_loss"
    """Name of the loss without penalties in the log; if empty, it is not logged."""

    counts_flops: bool = True
    """Whether a step is one pass of ``model`` over its tokens and back, as MFU needs."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.module: nn.Module = model

    def data(
        self,
        store: Any,
        tokenizer: Any,
        config: TrainConfig,
        world: World,
        precision: ForwardPrecision,
    ) -> tuple[Batches, Measure]:
        """The training batches and the validation function; called before anything is written."""
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
        """Units (tokens, images ...) per step, over all ranks."""
        return config.tokens_per_step

    def flops_per_unit(self, config: TrainConfig) -> float | None:
        """FLOPs of training per token; None if they are not counted."""
        return training_flops_per_token(self.model, config.context) if self.counts_flops else None

    def start(self, store: Any, config: TrainConfig, world: World) -> None:
        """Check the request and prepare, before anything is written. Every rank calls this."""

    def inputs(self, part: Any, device: torch.device) -> dict[str, Any]:
        """Keyword arguments of ``module`` for one training micro-batch."""
        batch: dict[str, Any] = part.to(device)
        return batch

    def validation_metrics(
        self, part: MicroBatch, output: Any, device: torch.device
    ) -> dict[str, float]:
        """Further metrics of a validation batch, each a mean over its tokens."""
        return {}

    def measured(self) -> dict[str, Any]:
        """Further metrics of a logged step; its gradients are available."""
        return {}

    def stepped(self, step: int, world: World) -> None:
        """Called after each step of the optimiser; ``step`` counts from 1."""

    def finish(self) -> None:
        """Called when training is complete, to bring ``model`` into its final state for export."""

    def record(self) -> dict[str, Any]:
        """Values for ``run.json`` that a resumed run must share."""
        return {}

    def close(self) -> None:
        """Release the resources that ``start`` opened."""
