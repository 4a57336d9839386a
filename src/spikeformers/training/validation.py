"""Validation: the language-model loss over windows of the held-out text."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from spikeformers.training.batches import MicroBatch, Objective, validation_batches
from spikeformers.training.config import TrainConfig
from spikeformers.training.distributed import World, reshard
from spikeformers.training.precision import ForwardPrecision

if TYPE_CHECKING:
    from spikeformers.data.store import TokenSplit

Metrics = Callable[[MicroBatch, Any, torch.device], dict[str, float]]
"""``(batch, output, device)`` to named metrics, each a mean over the batch's tokens."""


def lm_loss(output: Any) -> torch.Tensor:
    """The loss without penalties: ``lm_loss`` where the model gives one, else ``loss``."""
    separate = getattr(output, "lm_loss", None)
    loss: torch.Tensor = output.loss if separate is None else separate
    return loss


def validate(
    model: nn.Module,
    split: TokenSplit,
    objective: Objective,
    config: TrainConfig,
    world: World,
    precision: ForwardPrecision,
    further_metrics: Metrics | None = None,
) -> dict[str, float]:
    """Loss (nats per token), perplexity, and bits per byte of the text.

    A masked model gives the loss at its masked positions and ``masked_perplexity``; neither
    measures how many bits the text needs. ``further_metrics`` adds metrics of its own, averaged
    over tokens.
    """
    was_training = model.training
    model.eval()
    total = targets = 0.0
    sums: dict[str, float] = {}
    with torch.no_grad(), precision.autocast():
        for batch in validation_batches(split, objective, config, world):
            output = model(**batch.to(world.device))
            loss = lm_loss(output).double().item()
            total += loss * batch.targets if batch.targets else 0.0
            targets += batch.targets
            metrics = further_metrics(batch, output, world.device) if further_metrics else {}
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + value * batch.targets
    reshard(model)
    model.train(was_training)
    total, targets, *further = world.sum([total, targets, *sums.values()])
    means = {name: value / max(targets, 1.0) for name, value in zip(sums, further, strict=True)}
    loss = total / max(targets, 1.0)
    perplexity = math.exp(loss) if loss < 700 else math.inf
    if objective.mask_token_id is not None:
        return {"loss": loss, "masked_perplexity": perplexity, **means}
    bits_per_byte = loss / math.log(2) * split.num_tokens / split.num_bytes
    return {"loss": loss, "perplexity": perplexity, "bits_per_byte": bits_per_byte, **means}
