"""AdamW with decay on matrices only, the learning rate of a step, and gradient clipping."""

from __future__ import annotations

import math
import re

import torch
from torch import nn

from spikeformers.training.config import TrainConfig
from spikeformers.training.distributed import World, local

UNDECAYED = re.compile(r"bias|norm|\bln|threshold|decay|tau|amplitude|temperature", re.IGNORECASE)


def decays(name: str, parameter: torch.Tensor) -> bool:
    """Whether weight decay applies: to matrices (two dimensions above 1) other than norms, biases
    and thresholds.
    """
    return sum(size > 1 for size in parameter.shape) >= 2 and not UNDECAYED.search(name)


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101) with two groups."""
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[decays(name, parameter)].append(parameter)
    return torch.optim.AdamW(
        [
            {"params": groups[True], "weight_decay": config.weight_decay},
            {"params": groups[False], "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
        fused=True,
    )


def learning_rate(step: int, config: TrainConfig) -> float:
    """The rate of step ``step`` (from 0): linear warm-up, then the schedule down to its minimum.

    Steps after the end of the schedule keep its last rate.
    """
    total = config.schedule_span
    warmup = round(config.warmup_ratio * total)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    if config.schedule == "constant":
        return config.learning_rate
    progress = min(1.0, (step - warmup) / max(1, total - 1 - warmup))
    factor = (1 + math.cos(math.pi * progress)) / 2 if config.schedule == "cosine" else 1 - progress
    floor = config.min_learning_rate_ratio
    return config.learning_rate * (floor + (1 - floor) * factor)


def gradient_norm(model: nn.Module, world: World) -> float:
    """The 2-norm of all gradients, summed in float64, over the shards of every rank."""
    grads = [local(p.grad) for p in model.parameters() if p.grad is not None]
    exact = torch.float32 if world.device.type == "mps" else torch.float64
    norms = [torch.linalg.vector_norm(g, dtype=exact) for g in grads]
    squared = float(torch.stack(norms).cpu().double().square().sum()) if norms else 0.0
    if world.strategy == "fsdp":
        (squared,) = world.sum([squared])
    return math.sqrt(squared)


def clip(model: nn.Module, norm: float, largest: float) -> None:
    """Scale the gradients down to the norm ``largest`` if ``norm`` exceeds it."""
    if norm > largest:
        torch._foreach_mul_(
            [local(p.grad) for p in model.parameters() if p.grad is not None], largest / norm
        )


def layer_norms(model: nn.Module) -> dict[str, float]:
    """The 2-norm of the gradient of each linear map's and convolution's weights, by name."""
    return {
        name: float(torch.linalg.vector_norm(module.weight.grad))
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d)) and module.weight.grad is not None
    }
