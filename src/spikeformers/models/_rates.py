"""The firing-rate term of the loss, ours and not a paper's: layers above their target pay.

    rate_loss = weight * sum_l mean_count_l * [density_l > target_l]     l: neuron layers

``firing_rate_target`` is every layer's; ``firing_rate_targets`` gives components their own. A key
is a part of a layer's dotted name ("mlp", "attention.fire_value", "layers.0"), or "head" for the
neuron before the head, which costs only where it is named: its spikes are what all logits are made
of. Of several keys that fit, the one with most parts holds, of as many the last.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spikeformers.errors import ConfigError
from spikeformers.models._config import SpikingConfig
from spikeformers.neurons import Neuron

Rates = list[tuple[Tensor, Tensor, float]]  # of each layer: mean count, density, target


def track_rates(model: Any) -> Rates | None:
    """Have the neurons report their activity in the coming forward, where it costs.

    Raises ConfigError for a key of ``firing_rate_targets`` that fits no neuron layer.
    """
    config: SpikingConfig = model.config
    neurons = {name: m for name, m in model.named_modules() if isinstance(m, Neuron)}
    if not model.training or config.firing_rate_weight == 0:
        for neuron in neurons.values():
            neuron.activity = None
        return None
    rates: Rates = []
    for name, target in _targets(config, list(neurons)).items():
        neuron = neurons[name]
        neuron.activity = None if target is None else rates
        neuron.rate_target = target or 0.0
    return rates


def rate_loss(config: SpikingConfig, rates: Rates | None) -> Tensor | None:
    """The term; None without a penalty. A layer at or under its target costs nothing, so that it
    switches itself off.
    """
    if not rates:
        return None
    counts = torch.stack([count for count, _, _ in rates])
    densities = torch.stack([density for _, density, _ in rates])
    over = densities > densities.new_tensor([target for _, _, target in rates])
    rates.clear()  # or the neurons would keep this graph until the next forward
    return config.firing_rate_weight * (counts * over).sum()


def total(lm_loss: Tensor | None, rate: Tensor | None) -> Tensor | None:
    """Loss to minimise: task plus firing-rate term."""
    return lm_loss if lm_loss is None or rate is None else lm_loss + rate


def _targets(config: SpikingConfig, layers: list[str]) -> dict[str, float | None]:
    """The target of each neuron layer, None of one that does not pay."""
    own = {key: tuple(key.split(".")) for key in config.firing_rate_targets or {}}
    used: set[str] = set()
    found: dict[str, float | None] = {}
    for name in layers:
        parts = ("head",) if name == "head_neuron" else tuple(name.split("."))
        fitting = [key for key, wanted in own.items() if _holds(parts, wanted)]
        used.update(fitting)
        best = max(reversed(fitting), key=lambda key: len(own[key]), default=None)
        if best is not None:
            found[name] = (config.firing_rate_targets or {})[best]
        else:
            found[name] = None if parts == ("head",) else config.firing_rate_target
    if unknown := [key for key in own if key not in used]:
        known = dict.fromkeys(_component(name) for name in layers)
        raise ConfigError(
            f"firing_rate_targets names {unknown[0]!r}, which is no part of a neuron layer's name; "
            f"layers here: {', '.join(known)}, each also by 'layers.N'."
        )
    return found


def _holds(parts: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    """Whether ``wanted`` stands in ``parts``, one after the other."""
    starts = range(len(parts) - len(wanted) + 1)
    return any(parts[i : i + len(wanted)] == wanted for i in starts)


def _component(name: str) -> str:
    """A layer's name without the block that it is in."""
    if name == "head_neuron":
        return "head"
    parts = name.removesuffix(".neuron").split(".")
    return ".".join(parts[parts.index("layers") + 2 :] if "layers" in parts else parts)
