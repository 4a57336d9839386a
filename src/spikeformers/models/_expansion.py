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

    Every neuron emits ``[levels, S, ...]`` zeros and ones, the value of a spike is folded into the
    weights behind it, and the head is untied. For checking and for hardware; not for training or
    saving. Raises ConfigError for ternary neurons, whose spikes have a sign and do not expand, and
    for a rectifier, which has none.
    """
    refuse_adapters(model, "expand_to_binary()")
    neurons = list(neurons_of(model).values())
    if any(neuron.spike_type == "ternary" for neuron in neurons):
        raise ConfigError(
            "expand_to_binary() needs binary or integer neurons; t-lif spikes have a sign."
        )
    if any(getattr(m, "spike_type", None) == "real" for m in model.modules()):
        raise ConfigError(
            "expand_to_binary() needs spikes everywhere; K of A2OS2A is real (key_neuron='relu')."
        )
    for neuron in neurons:
        neuron.activity = None
    twin = copy.deepcopy(model).eval()
    head = twin.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.clone())
    for neuron in neurons_of(twin).values():
        neuron.expanded = True
    for module in twin.modules():
        if (fold := getattr(module, "fold", None)) is not None:
            fold((neurons[-1] if module is head else neurons[0]).unit)
    return twin
