"""Neurons and attention of presets: learned dead zones and grades of winners, both our own.

A config's defaults are the paper's neuron and competition. Presets replace them, as far as what is
chosen beside the preset leaves that open; docs/log.md has the experiments that led to both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spikeformers.attention import ATTENTIONS
from spikeformers.models._places import ROLES, has_neuron

_SIGNED: dict[str, Any] = {"neuron": "dead-zone", "levels": 64, "step_size": 0.25}
_OF_SUMS: dict[str, Any] = {"out": _SIGNED}
"""The place that only attention has which sums rows of V."""
_OF_MEANS: dict[str, Any] = {"out": {**_SIGNED, "step_size": 0.0625, "dead_zone": 0.03125}}
"""The same where the sum is a mean: finer steps, for no norm makes a mean as large as V."""
DEAD_ZONES: dict[str, Any] = {
    "projection_norm": False,
    "budget": 0.35,
    "neurons": {
        "in": _SIGNED,
        "query": {**_SIGNED, "target": 0.25},
        "key": {**_SIGNED, "target": 0.25},
        "value": _SIGNED,
        "hidden": {**_SIGNED, "signed": False},
        "head": _SIGNED,
    },
}
"""Fields of a config whose every neuron has a learned dead zone: no norms behind the maps, signed
counts in quarter steps, and one budget for the weights that a token reads."""
ATTENTION = "power-of-two"
"""Of presets with dead zones."""


def with_dead_zones(
    kind: type, sizes: Mapping[str, Any], choices: Mapping[str, Any]
) -> dict[str, Any]:
    """Fields of a config of class ``kind``: ``sizes``, dead zones, and over both ``choices``.

    Choices hold at every place. A field of neurons among them replaces that field of all places,
    and a firing-rate target replaces the budget and the places' own targets. No place has a dead
    zone if the choices name ``neuron`` or ``neurons``, if the attention sets its neurons itself, or
    if no norm stands before the neurons, whose small currents a dead zone would never pass.
    Beside dead zones the attention is `ATTENTION` unless one is chosen, by its name or by an option
    of the config's own. One that averages begins with a scale of 1 / sqrt(head width) and has no
    ``sum_norm``.
    Raises ConfigError for choices that no model can be built from.
    """
    values = {**sizes, **choices}
    if "neuron" in choices or "neurons" in choices:
        return values
    fields = ("attention", *ATTENTIONS[kind().attention].options)
    is_open = choices.keys().isdisjoint(fields)
    attention = {"attention": ATTENTION} if is_open else {}
    plain = kind(**{key: value for key, value in (values | attention).items() if key != "budget"})
    normed = plain.pre_norm and plain.norm != "none"
    if not (normed and all(has_neuron(plain, role) for role in ROLES)):
        return values
    by_targets = "firing_rate_target" in choices or "firing_rate_targets" in choices
    everywhere = {*choices, "target"} if by_targets else {*choices}
    averages = ATTENTIONS[plain.attention].averages
    of_sums = _OF_MEANS if averages else _OF_SUMS
    neurons = {
        place: {key: value for key, value in own.items() if key not in everywhere}
        for place, own in (DEAD_ZONES["neurons"] | of_sums).items()
        if has_neuron(plain, place)
    }
    by_budget = plain.spiking_head and plain.firing_rate_weight > 0 and not by_targets
    budget = DEAD_ZONES["budget"] if by_budget else None
    block = {"sum_norm": False, "attention_scale": plain.head_width**-0.5} if averages else {}
    own = {**DEAD_ZONES, **attention, **block, "neurons": neurons, "budget": budget}
    return {**sizes, **own, **choices}
