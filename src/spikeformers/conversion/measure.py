"""What the conversion of one module changed, on its calibration input.

    relative error   |y~ - y| / |y| over all values        cosine   mean over tokens
    clipped          share of currents beyond theta (1 + 1/(2L)), L the largest count of T steps
    rate             spikes a neuron, or pair, and step
    density          share of neurons, or pairs, with any spike in the T steps
    far              with a threshold per token, share of values that the far neurons say

The input is the dense model's, and so is the output that it is compared with.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from spikeformers.conversion.calibration import Sample
from spikeformers.models._converted import SpikingFeedForward, said_of
from spikeformers.neurons import Neuron


@torch.no_grad()
def changed(module: nn.Module, sample: Sample) -> dict[str, Any]:
    """Plain values: relative_error, cosine, neurons by name; for QCFS also that of a pipeline."""
    neurons: dict[str, dict[str, float]] = {}
    with _watching(module, neurons):
        if isinstance(module, SpikingFeedForward):
            said, wanted = module(sample.mlp_in), sample.mlp_out
        else:
            said = module(
                sample.attention_in,
                attention_mask=sample.mask,
                **({} if sample.rotary is None else {"position_embeddings": sample.rotary}),
            )[0]
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
    stepwise = module.up(said_of(module.fire_in, module.say, x))
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
        def call(neuron: Neuron, args: tuple[Tensor, ...], spikes: Tensor) -> None:
            found[name] = neuron.report(args[0], spikes)

        return call

    handles = [
        one.register_forward_hook(hook(name))
        for name, one in module.named_modules()
        if isinstance(one, Neuron)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
