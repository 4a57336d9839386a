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
from spikeformers.training.precision import Precision

if TYPE_CHECKING:
    from spikeformers.data.store import TokenSplit


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
    precision: Precision,
    metrics: Callable[[MicroBatch, Any, torch.device], dict[str, float]] | None = None,
) -> dict[str, float]:
    """Loss (nats a token), perplexity, and bits a byte of the text.

    A masked model has its loss at masked positions and ``masked_perplexity``, which says nothing
    about the bits that the text takes. ``metrics(batch, output, device)`` adds figures, means over
    the tokens of a batch.
    """
    was_training = model.training
    model.eval()
    total = targets = 0.0
    further: dict[str, float] = {}
    with torch.no_grad(), precision.autocast():
        for one in validation_batches(split, objective, config, world):
            output = model(**one.to(world.device))
            loss = lm_loss(output).double().item()
            total += loss * one.targets if one.targets else 0.0
            targets += one.targets
            for name, value in (metrics(one, output, world.device) if metrics else {}).items():
                further[name] = further.get(name, 0.0) + value * one.targets
    reshard(model)
    model.train(was_training)
    total, targets, *more = world.sum([total, targets, *further.values()])
    further = {name: value / max(targets, 1.0) for name, value in zip(further, more, strict=True)}
    loss = total / max(targets, 1.0)
    perplexity = math.exp(loss) if loss < 700 else math.inf
    if objective.mask_token_id is not None:
        return {"loss": loss, "masked_perplexity": perplexity, **further}
    bits_per_byte = loss / math.log(2) * split.num_tokens / split.num_bytes
    return {"loss": loss, "perplexity": perplexity, "bits_per_byte": bits_per_byte, **further}
