"""What the conversion of one module changed, on its calibration input.

    relative error   |y~ - y| / |y| over all values        cosine   mean over tokens
    clipped          share of currents beyond theta (1 + 1/(2L)), L the largest count of T steps
    rate             spikes a neuron, or pair, and step
    density          share of neurons, or pairs, with any spike in the T steps

The input is the dense model's, and so is the output that it is compared with.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from spikeformers.conversion.calibration import Sample
from spikeformers.models._converted import SpikingFeedForward, SpikingSelfAttention
from spikeformers.neurons import IF, by_sign


@torch.no_grad()
def changed(module: SpikingFeedForward | SpikingSelfAttention, sample: Sample) -> dict[str, Any]:
    """Plain values: relative_error, cosine, neurons by name; for QCFS also that of a pipeline."""
    neurons: dict[str, dict[str, float]] = {}
    with _watching(module, neurons):
        if isinstance(module, SpikingFeedForward):
            said, wanted = module(sample.mlp_in), sample.mlp_out
        else:
            said = module(sample.attention_in, position_embeddings=sample.rotary)[0]
            wanted = sample.attention_out
    found: dict[str, Any] = {**differ(said, wanted), "neurons": neurons}
    if isinstance(module, SpikingFeedForward) and module.method == "qcfs" and not module.gated:
        found["time_varying_error"] = _time_varying(module, sample.mlp_in)
    return found


def differ(said: Tensor, wanted: Tensor) -> dict[str, float]:
    """``relative_error`` and ``cosine`` of ``[..., T, D]``."""
    error = (said - wanted).norm() / wanted.norm().clamp_min(1e-12)
    cosine = torch.nn.functional.cosine_similarity(said, wanted, dim=-1).mean()
    return {"relative_error": float(error), "cosine": float(cosine)}


def _time_varying(module: SpikingFeedForward, x: Tensor) -> float:
    """Relative error of IF neurons that hear their input step by step, against waiting for it."""
    assert module.fire_act is not None
    neurons = (module.fire_in, module.fire_act)
    before = [neuron.unrolled for neuron in neurons]
    for neuron in neurons:
        neuron.unrolled = True
    stepwise = module.up(module.say(module.fire_in(x.unsqueeze(0)), module.fire_in.value))
    waiting = stepwise.mean(0, keepdim=True)
    said = [
        module.mean(module.down(module.say(module.fire_act(z), module.fire_act.value)))
        for z in (stepwise, waiting)
    ]
    for neuron, was in zip(neurons, before, strict=True):
        neuron.unrolled = was
    return differ(*said)["relative_error"]


@contextmanager
def _watching(module: nn.Module, found: dict[str, dict[str, float]]) -> Iterator[None]:
    def hook(name: str) -> Any:
        def call(neuron: IF, args: tuple[Tensor, ...], spikes: Tensor) -> None:
            current = args[0].mean(0, keepdim=True)
            limit = by_sign(current, neuron.threshold) * (1 + 0.5 / neuron.largest)
            beyond = current.abs() > limit if neuron.signed else current > limit
            count = neuron.events(spikes).sum(0)
            theta = neuron.threshold
            found[name] = {
                "clipped": float(beyond.float().mean()),
                "rate": float(count.mean()) / neuron.simulated,
                "density": float((count > 0).float().mean()),
                "threshold_mean": float(theta.mean()),
                "threshold_min": float(theta.min()),
                "threshold_max": float(theta.max()),
            }

        return call

    handles = [
        one.register_forward_hook(hook(name))
        for name, one in module.named_modules()
        if isinstance(one, IF)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
