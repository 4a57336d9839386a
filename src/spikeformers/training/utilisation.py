"""Model FLOPs utilisation (MFU): the share of a device's peak that the model's arithmetic uses.

    MFU = tokens per second * FLOPs per token / (devices * peak)
    FLOPs per token = 6 * weights of matrix products + 12 * layers * width * context

Chowdhery et al. 2022, appendix B, https://arxiv.org/abs/2204.02311: a multiply-accumulate is two
FLOPs, the backward pass is twice the forward pass, attention counts the full square, and computing
activations again does not count.
Differs: weights of embeddings are left out, those of the head are counted, and in a spiking model
the blocks' part is multiplied by the simulation steps. Spikes count as dense numbers, because that
is what a GPU computes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from spikeformers.training.config import TrainConfig
from spikeformers.training.distributed import World, blocks


@dataclass(frozen=True)
class Accelerator:
    """A GPU: peak of dense bf16 in TFLOP/s, memory in GB (10^9 bytes), and the source of both."""

    title: str
    tflops: float
    memory: float
    source: str


_NVIDIA = "NVIDIA data sheet, without sparsity"
ACCELERATORS = {
    "a100-40gb": Accelerator("NVIDIA A100 40 GB", 312, 40, _NVIDIA),
    "a100": Accelerator("NVIDIA A100 80 GB", 312, 80, _NVIDIA),
    "h100": Accelerator("NVIDIA H100 SXM", 989, 80, _NVIDIA),
    "h100-pcie": Accelerator("NVIDIA H100 PCIe", 756, 80, _NVIDIA),
    "h200": Accelerator("NVIDIA H200", 989, 141, _NVIDIA),
    "l4": Accelerator("NVIDIA L4", 121, 24, _NVIDIA),
    "l40s": Accelerator("NVIDIA L40S", 362, 48, _NVIDIA),
    "rtx-4090": Accelerator("NVIDIA GeForce RTX 4090", 165, 24, _NVIDIA),
}
"""Known GPUs by the name that ``plan --gpu`` takes."""

_IN_NAMES = {
    **{"h200": "H200", "h100-pcie": "H100 PCIe", "h100": "H100", "a100": "A100"},
    **{"l40s": "L40S", "l4": "NVIDIA L4", "rtx-4090": "RTX 4090"},
}
"""A part of the device's name in PyTorch, the more special first."""


def training_flops_per_token(model: PreTrainedModel, context: int) -> float:
    """FLOPs of forward and backward pass per token, in windows of ``context`` tokens."""
    steps = getattr(model.config, "steps", 1)
    inside = sum(_matrix_weights(block) for block in blocks(model))
    outside = _matrix_weights(model) - inside
    width, layers = model.config.hidden_size, model.config.num_hidden_layers
    return 6.0 * (steps * inside + outside) + 12.0 * steps * layers * width * context


def _matrix_weights(module: nn.Module) -> int:
    """Number of weights of all linear maps; one that is tied to an embedding counts."""
    return sum(
        part.weight.numel() for part in module.modules() if isinstance(part, (nn.Linear, Conv1D))
    )


def known_accelerator(name: str) -> Accelerator | None:
    """The accelerator with the name that PyTorch gives its device; None for an unknown one."""
    return next((ACCELERATORS[key] for key, part in _IN_NAMES.items() if part in name), None)


@dataclass(frozen=True)
class Utilisation:
    """Turns tokens per second into MFU; ``assumption`` says of which peak."""

    flops_per_token: float
    peak: float
    """FLOP/s of all devices together."""
    assumption: str

    def of(self, tokens_per_second: float) -> float:
        """MFU, between 0 and 1."""
        return tokens_per_second * self.flops_per_token / self.peak


def choose_utilisation(
    flops_per_token: float | None, config: TrainConfig, world: World, precision: str
) -> Utilisation | None:
    """The MFU to log; None without a count of FLOPs or without a known peak.

    The peak is ``device_tflops``, else that of a known GPU that computes in bf16.
    """
    if flops_per_token is None:
        return None
    tflops, why = config.device_tflops, "device_tflops"
    if not tflops and world.device.type == "cuda" and precision == "bf16":
        known = known_accelerator(torch.cuda.get_device_name(world.device))
        if known is not None:
            tflops, why = known.tflops, f"{known.title}, dense bf16: {known.source}"
    if not tflops:
        return None
    return Utilisation(
        flops_per_token, tflops * 1e12 * world.size, f"{tflops:g} TFLOP/s per device ({why})"
    )
