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
from spikeformers.models._converted import SpikingFeedForward, encoded
from spikeformers.neurons import Neuron


@torch.no_grad()
def changed(module: nn.Module, sample: Sample) -> dict[str, Any]:
    """Plain values: relative_error, cosine, neurons by name; for QCFS also time_varying_error."""
    neurons: dict[str, dict[str, float]] = {}
    with _watching(module, neurons):
        if isinstance(module, SpikingFeedForward):
            output, target = module(sample.mlp_in), sample.mlp_out
        else:
            output = module(
                sample.attention_in,
                attention_mask=sample.mask,
                **({} if sample.rotary is None else {"position_embeddings": sample.rotary}),
            )[0]
            target = sample.attention_out
    row: dict[str, Any] = {**differ(output, target), "neurons": neurons}
    if isinstance(module, SpikingFeedForward) and module.can_be_pipelined:
        row["time_varying_error"] = _time_varying(module, sample.mlp_in)
    return row


def differ(output: Tensor, target: Tensor) -> dict[str, float]:
    """``relative_error`` and ``cosine`` of ``[..., T, D]``."""
    error = (output - target).norm() / target.norm().clamp_min(1e-12)
    cosine = torch.nn.functional.cosine_similarity(output, target, dim=-1).mean()
    return {"relative_error": float(error), "cosine": float(cosine)}


def _time_varying(module: SpikingFeedForward, x: Tensor) -> float:
    """Relative error of IF neurons that get their input step by step, against waiting for it."""
    assert module.fire_act is not None
    neurons = (module.fire_in, module.fire_act)
    before = [neuron.unrolled for neuron in neurons]
    for neuron in neurons:
        neuron.unrolled = True
    stepwise = module.up(encoded(module.fire_in, module.decode, x))
    waiting = stepwise.mean(0, keepdim=True)
    outputs = [
        module.mean(module.down(module.decode(module.fire_act(z), module.fire_act.value)))
        for z in (stepwise, waiting)
    ]
    for neuron, was in zip(neurons, before, strict=True):
        neuron.unrolled = was
    return differ(*outputs)["relative_error"]


@contextmanager
def _watching(module: nn.Module, reports: dict[str, dict[str, float]]) -> Iterator[None]:
    def hook(name: str) -> Any:
        def call(neuron: Neuron, args: tuple[Tensor, ...], spikes: Tensor) -> None:
            reports[name] = neuron.report(args[0], spikes)

        return call

    handles = [
        part.register_forward_hook(hook(name))
        for name, part in module.named_modules()
        if isinstance(part, Neuron)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
