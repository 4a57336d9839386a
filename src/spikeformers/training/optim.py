"""AdamW, or Muon beside it; the learning rate of a step; gradient norm and clipping.

Weight decay is for matrices only. Muon (Jordan et al. 2024,
https://kellerjordan.github.io/posts/muon/) takes the matrices of the blocks; embeddings, head,
norms, biases and thresholds stay with AdamW. Its steps have the root mean square of AdamW's (Liu et
al. 2025, https://arxiv.org/abs/2502.16982), so both share the learning rate and the decay.
"""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import nn

from spikeformers.errors import ConfigError
from spikeformers.training.config import TrainConfig
from spikeformers.training.distributed import World, blocks, local

UNDECAYED = re.compile(r"bias|norm|\bln|threshold|decay|tau|amplitude|temperature", re.IGNORECASE)


def decays(name: str, parameter: torch.Tensor) -> bool:
    """Whether weight decay applies: to matrices (two dimensions above 1) other than norms, biases
    and thresholds.
    """
    return sum(size > 1 for size in parameter.shape) >= 2 and not UNDECAYED.search(name)


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101) with two groups.

    With ``optimizer="muon"`` a third group has the matrices of the blocks. Raises ConfigError if
    the model names no blocks.
    """
    matrices = _matrices_of_blocks(model) if config.optimizer == "muon" else set()
    groups: dict[str, list[nn.Parameter]] = {"decayed": [], "plain": [], "muon": []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            kind = "decayed" if decays(name, parameter) else "plain"
            groups["muon" if parameter in matrices else kind].append(parameter)
    adamw = torch.optim.AdamW(
        [
            {"params": groups["decayed"], "weight_decay": config.weight_decay},
            {"params": groups["plain"], "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
        fused=True,
    )
    return adamw if config.optimizer == "adamw" else MuonAndAdamW(groups["muon"], adamw, config)


class MuonAndAdamW(torch.optim.Optimizer):
    """Muon for ``matrices``, ``adamw`` for its own parameters, as one optimiser.

    The state of a matrix is its ``momentum_buffer``; that of other parameters is AdamW's.
    """

    def __init__(
        self, matrices: list[nn.Parameter], adamw: torch.optim.AdamW, config: TrainConfig
    ) -> None:
        muon = torch.optim.Muon(
            matrices,
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            momentum=config.muon_momentum,
            adjust_lr_fn="match_rms_adamw",
        )
        super().__init__([*adamw.param_groups, *muon.param_groups], {})
        self._parts = (adamw, muon)
        self.param_groups = [group for part in self._parts for group in part.param_groups]
        for part in self._parts:
            part.state = self.state
        self.matrices = frozenset(matrices)

    def step(self, closure: Any = None) -> Any:
        """Change every parameter once; ``closure`` is not supported."""
        if closure is not None:
            raise ValueError("MuonAndAdamW takes no closure")
        for part in self._parts:
            part.step()


def new_state(
    optimizer: torch.optim.Optimizer, parameter: nn.Parameter, steps: int
) -> dict[str, torch.Tensor]:
    """An optimiser's state of ``parameter`` after ``steps`` steps, to be filled: all zeros."""
    if isinstance(optimizer, MuonAndAdamW) and parameter in optimizer.matrices:
        return {"momentum_buffer": torch.zeros_like(parameter)}
    return {
        "step": torch.tensor(float(steps), device=parameter.device),
        "exp_avg": torch.zeros_like(parameter),
        "exp_avg_sq": torch.zeros_like(parameter),
    }


def _matrices_of_blocks(model: nn.Module) -> set[nn.Parameter]:
    found = {
        parameter
        for block in blocks(model)
        for name, parameter in block.named_parameters()
        if parameter.requires_grad and parameter.ndim == 2 and decays(name, parameter)
    }
    if not found:
        raise ConfigError(
            "optimizer is 'muon', which takes the matrices of a model's blocks, and this model has "
            "none to train or names no blocks (_no_split_modules). Use optimizer=adamw."
        )
    return found


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
