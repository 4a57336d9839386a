"""The floating-point type of the forward pass, and the reason for it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from spikeformers.errors import ConfigError


@dataclass(frozen=True)
class ForwardPrecision:
    """``fp32``, or ``bf16`` by autocast: weights and gradients stay float32."""

    name: str
    reason: str
    device: torch.device

    def autocast(self) -> AbstractContextManager[object]:
        if self.name == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


def choose_precision(setting: str, device: torch.device) -> ForwardPrecision:
    """Resolve ``auto``; ``ConfigError`` for bf16 on a device without it."""
    if setting == "fp32":
        return ForwardPrecision("fp32", "asked for", device)
    refused = _why_no_bf16(device)
    if setting == "auto":
        if device.type != "cuda" or refused:
            return ForwardPrecision(
                "fp32", refused or f"auto: {device.type} is fastest in fp32", device
            )
        return ForwardPrecision("bf16", "auto: this CUDA device computes bf16", device)
    if refused:
        raise ConfigError(f"precision is 'bf16', and {refused}. Use precision=auto.")
    return ForwardPrecision("bf16", "asked for", device)


def _why_no_bf16(device: torch.device) -> str:
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return f"{torch.cuda.get_device_name(device)} has no bf16"
    return "mps autocast has no tested bf16" if device.type == "mps" else ""
