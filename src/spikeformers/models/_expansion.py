"""A copy of a model that computes the same logits from zeros and ones."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel

from spikeformers.errors import ConfigError
from spikeformers.models._adapters import refuse_adapters
from spikeformers.neurons import neurons_of

Model = TypeVar("Model", bound=PreTrainedModel)


@torch.no_grad()
def expanded(model: Model) -> Model:
    """Return a copy that computes the same logits from binary sub-steps only.

    Every neuron emits ``[sub_steps, S, ...]`` zeros and ones, the value of a spike is folded into
    the weights behind it, and the head is untied. A neuron whose counts have a sign becomes two
    populations: ON spikes are added by the maps behind it, OFF spikes are subtracted. For checking
    and for hardware; not for training or saving. Raises ConfigError for ternary neurons, and for a
    rectifier, which has no spikes.
    """
    refuse_adapters(model, "expand_to_binary()")
    neurons = neurons_of(model)
    for name, neuron in neurons.items():
        if neuron.spike_type not in ("binary", "integer"):
            raise ConfigError(
                f"expand_to_binary() needs binary or integer neurons; that of {name} is "
                f"{neuron.spike_type}."
            )
    if any(getattr(m, "spike_type", None) == "real" for m in model.modules()):
        raise ConfigError(
            "expand_to_binary() needs spikes everywhere; K of A2OS2A is real (key_neuron='relu')."
        )
    for neuron in neurons.values():
        neuron.activity = None
    twin = copy.deepcopy(model).eval()
    head = twin.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.clone())
    for neuron in neurons_of(twin).values():
        neuron.expanded = True
    for module in twin.modules():
        for linear, neuron in getattr(module, "maps", list)():
            linear.fold(neuron.unit, neuron.off_steps)
    return twin
