"""The firing-rate term of the loss, this project's own: it penalises layers above their target.

    rate_loss = weight * sum_l mean_count_l * [density_l > target_l]     l: neuron layers

``firing_rate_target`` applies to every layer; ``firing_rate_targets`` sets it for components. A key
is a part of a layer's dotted name ("mlp", "attention.fire_value", "layers.0"), or "head" for the
neuron before the head, which is penalised only if it is named, since all logits come from its
spikes. Of several keys that fit, the one with the most parts applies; among those, the last.

With a ``budget`` the learned thresholds in front of weights are held to one share for all, so that
each place is as dense as its weights are worth:

    read      = sum_l share_l * density_l            share_l: of the weights, in maps that read l
    rate_loss = budget_weight * sum_l share_l * mean_l * [read > budget] + the other layers' terms

Means and densities exclude padding. If a trainer splits its batch, each forward pass has a term of
its own, weighted by its share of the targets (``_loss``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from spikeformers.errors import ConfigError
from spikeformers.models._config import SpikingConfig
from spikeformers.neurons import Activity, Neuron, neurons_of


class Rates(list[Activity]):
    """Activities of the layers that may be penalised, in one forward pass, until they are taken.

    What is appended afterwards is dropped: with activation checkpointing the backward pass computes
    the blocks again, and would otherwise keep the graph of all of them.
    """

    def __init__(self, activities: Iterable[Activity] = ()) -> None:
        super().__init__(activities)
        self._taken = False

    def append(self, activity: Activity) -> None:
        """Add the activity of a layer."""
        if not self._taken:
            super().append(activity)

    def take(self) -> None:
        """Forget the activities, and those of the backward pass."""
        self._taken = True
        self.clear()


def track_rates(model: Any) -> Rates | None:
    """Make the penalised neurons report their activity in the next forward pass.

    Raises ConfigError for a key of ``firing_rate_targets`` that fits no neuron layer.
    """
    config: SpikingConfig = model.config
    neurons = neurons_of(model)
    if not model.training or config.firing_rate_weight == 0:
        for neuron in neurons.values():
            neuron.activity = None
        return None
    rates = Rates()
    shares = read_shares(model) if getattr(config, "budget", None) is not None else {}
    for name, target in _targets(config, neurons).items():
        neuron = neurons[name]
        neuron.read_share = shares.get(neuron, 0.0)
        neuron.activity = None if target is None and not neuron.read_share else rates
        neuron.rate_target = 1.0 if target is None else target
    return rates


def read_shares(model: Any) -> dict[Neuron, float]:
    """The share of the model's weights that is in the maps reading each layer's spikes.

    A token reads the rows of what fires, so that the share of weights read per token is the sum of
    shares times densities.
    """
    sizes: Counter[Neuron] = Counter()
    for module in model.modules():
        for linear, neuron in getattr(module, "maps", list)():
            sizes[neuron] += linear.weight.numel()
    everything = sum(sizes.values())
    return {neuron: size / everything for neuron, size in sizes.items()}


def share_read(model: Any, densities: Mapping[str, float]) -> float:
    """The share of the weights in maps of spikes that a token reads, the head's included.

    ``densities`` by the names that `neurons_of` gives.
    """
    shares = read_shares(model)
    return sum(
        shares.get(neuron, 0.0) * densities[name] for name, neuron in neurons_of(model).items()
    )


def rate_loss(
    config: SpikingConfig, rates: Rates | None, share: Tensor | None = None
) -> Tensor | None:
    """The term, times ``share`` if given; None without a penalty. A layer at or under its target
    is not penalised, so the term switches itself off.

    Raises ConfigError if gradient checkpointing keeps the term out of all gradients.
    """
    if not rates:
        return None
    if torch.is_grad_enabled() and not all(activity.recorded for activity in rates):
        rates.take()
        raise ConfigError(
            "reentrant gradient checkpointing computes the blocks without a graph, so that the "
            "firing-rate term would be in the loss and in no gradient. Use "
            "gradient_checkpointing_kwargs={'use_reentrant': False}, or firing_rate_weight=0."
        )
    budgeted: list[Activity] = []
    others: list[Activity] = []
    for activity in rates:
        held_by_budget = activity.share > 0 and activity.learns_threshold
        (budgeted if held_by_budget else others).append(activity)
    terms = []
    if others:
        counts = torch.stack([activity.weight * activity.mean for activity in others])
        densities = torch.stack([activity.density for activity in others])
        over = densities > densities.new_tensor([activity.target for activity in others])
        terms.append(config.firing_rate_weight * (counts * over).sum())
    if budgeted:
        budgets: Any = config
        read = sum(activity.share * activity.density for activity in rates)
        excess = sum(activity.share * activity.mean for activity in budgeted)
        terms.append(budgets.budget_weight * excess * (read > budgets.budget))
    rates.take()  # or the neurons would keep this graph until the next forward
    term = torch.stack(terms).sum()
    return term if share is None else term * share


def total(lm_loss: Tensor | None, rate: Tensor | None) -> Tensor | None:
    """Loss to minimise: task plus firing-rate term."""
    return lm_loss if lm_loss is None or rate is None else lm_loss + rate


def _targets(config: SpikingConfig, layers: dict[str, Neuron]) -> dict[str, float | None]:
    """The target of each neuron layer; None for a layer that is not penalised."""
    own = {key: tuple(key.split(".")) for key in config.firing_rate_targets or {}}
    used: set[str] = set()
    targets: dict[str, float | None] = {}
    for name, neuron in layers.items():
        parts = ("head",) if name == "head_neuron" else tuple(name.split("."))
        fitting = [key for key, key_parts in own.items() if _holds(parts, key_parts)]
        used.update(fitting)
        best = max(reversed(fitting), key=lambda key: len(own[key]), default=None)
        if best is not None:
            targets[name] = (config.firing_rate_targets or {})[best]
        elif neuron.own_target is not None:
            targets[name] = neuron.own_target
        else:
            targets[name] = None if parts == ("head",) else config.firing_rate_target
    used.add("head")  # checked by the config; a classifier has none of the head that it began with
    if unknown := [key for key in own if key not in used]:
        components = dict.fromkeys(_component(name) for name in layers)
        raise ConfigError(
            f"firing_rate_targets names {unknown[0]!r}, which is not part of a neuron layer's "
            f"name; layers here: {', '.join(components)}, each also by 'layers.N'."
        )
    return targets


def _holds(parts: tuple[str, ...], key: tuple[str, ...]) -> bool:
    """Whether ``parts`` contains ``key`` as consecutive parts."""
    starts = range(len(parts) - len(key) + 1)
    return any(parts[i : i + len(key)] == key for i in starts)


def _component(name: str) -> str:
    """A layer's name without the block that it is in."""
    if name == "head_neuron":
        return "head"
    parts = name.removesuffix(".neuron").split(".")
    return ".".join(parts[parts.index("layers") + 2 :] if "layers" in parts else parts)
