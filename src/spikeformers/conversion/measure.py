"""Measure the error of one module's conversion on its calibration input.

    relative error   |y~ - y| / |y| over all values        cosine   mean over tokens
    clipped          share of currents beyond theta (1 + 1/(2L)), L the largest count of T steps
    rate             spikes per neuron, or pair, and step
    density          share of neurons, or pairs, with any spike in the T steps
    far              with a threshold per token, share of values for which the far neurons fire

Input and reference output are those of the dense model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from spikeformers.conversion.calibration import Sample
from spikeformers.neurons import Neuron, neurons_of


@torch.no_grad()
def changed(module: nn.Module, part: str, sample: Sample) -> dict[str, Any]:
    """Record of a converted "mlp" or "attention".

    Plain values: relative_error, cosine, neurons by name; for QCFS also time_varying_error, the
    relative error of IF neurons that get their input step by step, against waiting for it.
    """
    neurons: dict[str, dict[str, float]] = {}
    with _watching(module, neurons):
        output, target = sample.replayed(module, part)
    row: dict[str, Any] = {**differ(output, target), "neurons": neurons}
    if getattr(module, "can_be_pipelined", False):
        by_step, by_sum = module.stepwise(sample.mlp_in)  # type: ignore[operator]
        row["time_varying_error"] = differ(by_step, by_sum)["relative_error"]
    return row


def differ(output: Tensor, target: Tensor) -> dict[str, float]:
    """``relative_error`` and ``cosine`` of ``[..., T, D]``."""
    error = (output - target).norm() / target.norm().clamp_min(1e-12)
    cosine = torch.nn.functional.cosine_similarity(output, target, dim=-1).mean()
    return {"relative_error": float(error), "cosine": float(cosine)}


@contextmanager
def _watching(module: nn.Module, reports: dict[str, dict[str, float]]) -> Iterator[None]:
    def hook(name: str) -> Any:
        def call(neuron: Neuron, args: tuple[Tensor, ...], spikes: Tensor) -> None:
            reports[name] = neuron.report(args[0], spikes)

        return call

    handles = [
        neuron.register_forward_hook(hook(name)) for name, neuron in neurons_of(module).items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
