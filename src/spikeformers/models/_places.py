"""The places of neurons in a block, and the neuron that a config puts into each.

    in      before the maps of q, k and v, and before the MLP
    mlp_in  before the MLP, if it differs
    query, key, value
    out     of attention that sums several rows and fires again, before the output map
    hidden  inside the MLP
    head    before the language-model head

``neurons`` of a config maps a place to the fields that differ there: ``{"in": {"neuron":
"dead-zone", "levels": 64, "target": 0.25}}``. A place that it does not name has the neuron that
the config's own fields describe.
"""

from __future__ import annotations

import math
from typing import Any

from spikeformers.attention import ATTENTIONS
from spikeformers.errors import ConfigError, nearest
from spikeformers.neurons import NEURONS, Neuron
from spikeformers.values import require_kind

PLACES = ("in", "mlp_in", "query", "key", "value", "out", "hidden", "head")
ROLES = ("query", "key", "value")
FALLS_BACK = {"mlp_in": "in"}
OF_PLACE = {"target": float, "rate_weight": float}
BEHIND_MAPS = ("query", "key", "value", "hidden")
"""Places that have no norm in front with ``projection_norm=False``."""
SIZE_OF_INPUTS = 0.7
"""Root mean square of what a dead zone lets pass of currents of size 1, about."""
OPTIONS = (
    *("neuron", "neuron_options", "levels", "decay", "threshold", "threshold_ratio", "amplitude"),
    *("reset", "surrogate", "surrogate_sharpness", "integer_gradient", "surrogate_margin"),
    *("surrogate_leak", "signed", "step_size", "dead_zone", "gain"),
)
"""Fields of the config that a place may override."""


class _AtPlace:
    """A config with the overrides of one place."""

    def __init__(self, config: Any, own: dict[str, Any]) -> None:
        self._config, self._own = config, own

    def __getattr__(self, name: str) -> Any:
        return self._own[name] if name in self._own else getattr(self._config, name)


def options_of(config: Any, place: str) -> dict[str, Any]:
    """The fields that ``config.neurons`` overrides at ``place``; empty if it does not name it."""
    named = config.neurons or {}
    fallback = FALLS_BACK.get(place, place)
    return dict(named.get(place, named.get(fallback, {})))


def neuron_at(config: Any, place: str) -> Neuron:
    """A new neuron layer of ``place``."""
    own = options_of(config, place)
    target, weight = own.pop("target", None), own.pop("rate_weight", 1.0)
    if place in BEHIND_MAPS and not config.projection_norm and config.gain is None:
        own.setdefault("gain", 1 / _size_of_currents(config))
    view = _AtPlace(config, own)
    kind = NEURONS.get_or_refuse(view.neuron, "neuron")
    neuron = kind.head_from_config(view) if place == "head" else kind.from_config(view)
    neuron.own_target, neuron.rate_weight = target, weight
    return neuron


def _size_of_currents(config: Any) -> float:
    """Of the first maps' outputs before training, whose weights have ``initializer_range``."""
    size: float = config.initializer_range * math.sqrt(config.hidden_size) * SIZE_OF_INPUTS
    return size


def check_places(config: Any) -> None:
    """ConfigError for a place, an option or a value of ``config.neurons`` that does not exist."""
    for place, own in (config.neurons or {}).items():
        if place not in PLACES:
            raise ConfigError(
                f"neurons names {place!r}; places of neurons are {', '.join(PLACES)}."
                f"{nearest(place, PLACES)}"
            )
        allowed = (*OPTIONS, *OF_PLACE)
        for key, value in own.items():
            if key not in allowed:
                raise ConfigError(
                    f"neurons[{place!r}] names {key!r}; its options are {', '.join(allowed)}."
                    f"{nearest(key, allowed)}"
                )
            if key in OF_PLACE:
                require_kind(f"neurons[{place!r}][{key!r}]", value, OF_PLACE[key])
        if not 0 <= own.get("target", 0.0) < 1:
            raise ConfigError(
                f"neurons[{place!r}]['target'] must be a density in [0, 1), not {own['target']!r}."
            )
        _refuse_without_neuron(config, place)
        neuron_at(config, place)
    if config.budget is not None:
        _check_budget(config)


def _check_budget(config: Any) -> None:
    """ConfigError for a budget that nothing would hold."""
    if not config.spiking_head:
        raise ConfigError("budget counts the head's weights, which spiking_head=False reads whole.")
    if config.firing_rate_weight == 0:
        raise ConfigError("firing_rate_weight=0 switches off the term that holds the budget.")
    before_weights = (
        place for place in PLACES if place not in ("query", "key") and has_neuron(config, place)
    )
    if not any(neuron_at(config, place).learns_threshold for place in before_weights):
        raise ConfigError(
            "budget holds learned thresholds, and no neuron before weights has one; use "
            "neuron='dead-zone', or name places in neurons."
        )


def rows_of(config: Any) -> dict[str, str]:
    """For people: the neurons of the places that ``config.neurons`` sets, in words."""
    places: dict[str, list[str]] = {}
    for place in PLACES:
        own = options_of(config, place)
        if not own or (place == "head" and not config.spiking_head):
            continue
        view, neuron = _AtPlace(config, own), neuron_at(config, place)
        steps = f"{config.steps}x{neuron.step_levels} (T x D)"
        target = "" if neuron.own_target is None else f", target density {neuron.own_target:g}"
        words = f"{view.neuron}, {steps}, {neuron.values()}{target}"
        places.setdefault(words, []).append(place)
    return {f"neuron at {', '.join(named)}": words for words, named in places.items()}


def all_named(config: Any) -> bool:
    """Whether ``config.neurons`` names every place that has a neuron of the config."""
    return all(options_of(config, place) for place in PLACES if has_neuron(config, place))


def has_neuron(config: Any, place: str) -> bool:
    """Whether the model has a neuron at ``place`` that is the config's and not its attention's."""
    return _without_neuron(config, place) == ""


def _refuse_without_neuron(config: Any, place: str) -> None:
    """ConfigError if the model has no neuron at ``place``, or its attention brings its own."""
    if reason := _without_neuron(config, place):
        raise ConfigError(f"neurons names {place!r}, and {reason}.")


def _without_neuron(config: Any, place: str) -> str:
    """Why no neuron of the config is at ``place``; "" if there is one."""
    attention = ATTENTIONS.get(config.attention)
    if place == "head" and not config.spiking_head:
        return "spiking_head=False puts no neuron there"
    if attention is None:  # refused elsewhere
        return ""
    if place in ROLES and attention.role_neuron(config, place) is not None:
        return f"attention={config.attention!r} sets this neuron itself: use {place}_neuron"
    if place == "out" and attention.from_config(config).hands_on_one_row:
        return (
            f"attention={config.attention!r} with one winner hands on its spikes: there is no "
            "neuron"
        )
    return ""
