"""The rows of `gap.py`: models with one part of the spiking block changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from _ideas import (
    OnStep,
    bent_thresholds,
    budget_by_margin,
    falling_budget,
    gate_hidden,
    handed_on,
    hard_thresholds,
    mixed,
    more_winners,
    neighbours_first,
    one_winner,
    rests,
    silent_channels_learn,
    thresholds_by_channel,
    traces,
    turned_by_position,
)
from spikeformers.models import DEAD_ZONES, WDSpikingformerConfig
from spikeformers.models._dead_zones import with_dead_zones
from spikeformers.neurons import Neuron, register_neuron

HEAD = 16
"""Width of a head."""
PLACES = ("in", "query", "key", "value", "head")


class Real(Neuron):
    """No neuron: the current itself."""

    spike_type = "integer"

    def fire(self, u: Tensor) -> Tensor:
        return u.clone()


class Positive(Real):
    """max(0, x), real."""

    def fire(self, u: Tensor) -> Tensor:
        return torch.relu(u)


class Smooth(Real):
    """GELU, real, as in the twin."""

    def fire(self, u: Tensor) -> Tensor:
        return functional.gelu(u)


register_neuron("real", Real)
register_neuron("positive", Positive)
register_neuron("smooth", Smooth)


@dataclass(frozen=True)
class Row:
    """The tiny preset's overrides, and what is done to the model that they give."""

    model: dict[str, Any] = field(default_factory=dict)
    twin: bool = False
    masked: bool = False
    change: Callable[[Any], None] = lambda model: None
    on_step: Callable[[Any, int], OnStep] | None = None
    """Of the model and the number of steps: what happens after each."""


def with_neurons(neuron: str, *here: str) -> dict[str, Any]:
    """Dead zones but for these places, which have ``neuron``."""
    return {"neurons": DEAD_ZONES["neurons"] | {place: {"neuron": neuron} for place in here}}


def winners(number: int) -> dict[str, Any]:
    """The mean of ``number`` winners' rows."""
    return {"attention": "cwssa", "wta": "top_k", "winners": number, "winner_weight": "mean"}


def averaging(
    attention: str, budget: float = DEAD_ZONES["budget"], digits: int = 1
) -> dict[str, Any]:
    """Attention that averages, as presets have it: fine steps and no norm before W_o."""
    return {"attention": attention, "budget": budget, "weight_digits": digits}


def graded(*here: str, **changes: Any) -> dict[str, Any]:
    """The preset with these fields ``here``, by default everywhere but before W_o."""
    neurons = gathering()["neurons"]
    here = here or tuple(place for place in neurons if place != "out")
    return {**gathering(), "neurons": neurons | {place: neurons[place] | changes for place in here}}


def gathering(budget: float = DEAD_ZONES["budget"], **value: Any) -> dict[str, Any]:
    """The same with two binary digits, for any preset, and with these fields of V's neuron."""
    shape = {"hidden_size": 4 * HEAD, "num_attention_heads": 4}  # only its heads' width counts here
    choices = averaging("power-of-two", budget, digits=2)
    fields = with_dead_zones(WDSpikingformerConfig, shape, choices)
    fields["neurons"]["value"] |= value
    return {key: of for key, of in fields.items() if key not in shape}


NO_BUDGET: dict[str, Any] = {**DEAD_ZONES, "budget": 0.999}
REAL: dict[str, Any] = {
    "neurons": {
        **{place: {"neuron": "real"} for place in PLACES},
        "hidden": {"neuron": "positive"},
    },
    "firing_rate_weight": 0.0,
}
PLAIN: dict[str, Any] = {**REAL, "projection_norm": False}
"""Real values without norms behind the maps."""
SUMMED: dict[str, Any] = {
    **DEAD_ZONES,
    "attention": "softmax",
    "neurons": {**DEAD_ZONES["neurons"], "out": DEAD_ZONES["neurons"]["value"]},
}
SOFTMAX: dict[str, Any] = {"attention": "softmax", "attention_scale": HEAD**-0.5}
"""Softmax whose scores begin as the twin's."""
NO_SLOPES = {"relative_slope": 0.0}
BLOCK: dict[str, Any] = {
    **PLAIN,
    **SOFTMAX,
    "neurons": REAL["neurons"] | {"out": {"neuron": "real"}},
}
"""The spiking block with real values and softmax."""
TURNED: dict[str, Any] = {**BLOCK, **NO_SLOPES, "sum_norm": False}
"""The same without the norm before W_o and, with `turned_by_position`, rotary."""
READING = ("in", "hidden", "head")
"""Places whose spikes read weights, beside the one before W_o."""
A2OS2A: dict[str, Any] = {"attention": "a2os2a", "neuron": "ni-lif"}
OPEN: dict[str, Any] = {
    **A2OS2A,
    "budget": DEAD_ZONES["budget"],
    "neurons": {place: DEAD_ZONES["neurons"][place] for place in READING}
    | {"out": DEAD_ZONES["neurons"]["value"]},
}
"""A2OS2A with dead zones at the places that its paper leaves open."""
ROWS: dict[str, Row] = {
    "dense twin, rotary positions": Row(twin=True),
    "dense twin, rotary positions, one winner": Row(twin=True, change=one_winner),
    "real values": Row(REAL),
    "real values, no norms behind the maps": Row(PLAIN),
    "real values, no norms behind the maps, softmax": Row(
        {**PLAIN, "attention": "softmax", "neurons": REAL["neurons"] | {"out": {"neuron": "real"}}}
    ),
    "real values, no norms behind the maps, GELU": Row(
        {**PLAIN, "neurons": REAL["neurons"] | {"hidden": {"neuron": "smooth"}}}
    ),
    "block: real, softmax": Row(BLOCK),
    "block: real, softmax, no norm before W_o, rotary": Row(TURNED, change=turned_by_position),
    "block: softmax, rotary; dead zones where spikes read weights": Row(
        {
            **TURNED,
            "neurons": BLOCK["neurons"]
            | {place: DEAD_ZONES["neurons"][place] for place in READING},
        },
        change=turned_by_position,
    ),
    "block: softmax, rotary; dead zones for hidden neurons": Row(
        {
            **TURNED,
            "neurons": BLOCK["neurons"] | {"hidden": DEAD_ZONES["neurons"]["hidden"]},
        },
        change=turned_by_position,
    ),
    "block: softmax, rotary; dead zones in the attention": Row(
        {
            **TURNED,
            "neurons": gathering()["neurons"]
            | {place: BLOCK["neurons"][place] for place in READING},
        },
        change=turned_by_position,
    ),
    "real values, softmax": Row({**REAL, "attention": "softmax"}),
    "NI-LIF": Row({"neuron": "ni-lif"}),
    "dead zones": Row(DEAD_ZONES),
    "dead zones, softmax": Row(SUMMED),
    "dead zones, softmax, scores begin as the twin's": Row({**SUMMED, **SOFTMAX}),
    "dead zones, norms behind the maps": Row({**DEAD_ZONES, "projection_norm": True}),
    "dead zones, budget 0.15": Row({**DEAD_ZONES, "budget": 0.15}),
    "dead zones, no budget": Row(NO_BUDGET),
    "dead zones, no budget, hidden GELU": Row(NO_BUDGET | with_neurons("smooth", "hidden")),
    "dead zones, no budget, real before the maps and the head": Row(
        NO_BUDGET | with_neurons("real", "in", "head")
    ),
    "dead zones, the budget falls from 1": Row(DEAD_ZONES, on_step=falling_budget),
    "dead zones, the budget falls late": Row(
        DEAD_ZONES, on_step=partial(falling_budget, begin=0.5, until=0.75)
    ),
    "dead zones, held by what a threshold silences": Row(DEAD_ZONES, change=budget_by_margin),
    "dead zones, a tenth of the gradient outside": Row({**DEAD_ZONES, "surrogate_leak": 0.1}),
    "dead zones, eight heads": Row({**DEAD_ZONES, "num_attention_heads": 8}),
    "dense twin, rotary positions, eight heads": Row({"num_attention_heads": 8}, twin=True),
    "dead zones, two heads": Row({**DEAD_ZONES, "num_attention_heads": 2}),
    "dense twin, rotary positions, two heads": Row({"num_attention_heads": 2}, twin=True),
    "dead zones, two winners, their mean": Row({**SUMMED, **winners(2)}),
    "dead zones, four winners, their mean": Row({**SUMMED, **winners(4)}),
    "dead zones, sparsemax": Row({**SUMMED, "attention": "cwssa", "wta": "sparsemax"}),
    "dead zones, rotary positions beside the bias": Row(DEAD_ZONES, change=turned_by_position),
    "dead zones, no budget, half of the heads leaky traces": Row(NO_BUDGET, change=traces),
    "dead zones, no budget, rotary": Row({**NO_BUDGET, **NO_SLOPES}, change=turned_by_position),
    "dead zones, no budget, softmax, rotary, real sums": Row(
        {**NO_BUDGET, **SOFTMAX, **NO_SLOPES, **with_neurons("real", "out"), "sum_norm": False},
        change=turned_by_position,
    ),
    "dead zones, no budget, softmax, rotary, no norm before W_o": Row(
        {**NO_BUDGET, **SOFTMAX, **NO_SLOPES, "neurons": SUMMED["neurons"], "sum_norm": False},
        change=turned_by_position,
    ),
    "dead zones, no budget, softmax, norm before W_o": Row(
        {**NO_BUDGET, **SOFTMAX, "neurons": SUMMED["neurons"]}
    ),
    "dead zones, no budget, softmax, fine counts before W_o": Row(averaging("softmax", 0.999)),
    "dead zones, softmax, fine counts before W_o": Row(averaging("softmax")),
    "dead zones, no budget, powers of two, fine counts before W_o": Row(
        averaging("power-of-two", 0.999)
    ),
    "dead zones, powers of two, fine counts before W_o": Row(averaging("power-of-two")),
    "dead zones, no budget, two binary digits, fine counts before W_o": Row(gathering(0.999)),
    "dead zones, no budget, two binary digits, V's target 0.5": Row(gathering(0.999, target=0.5)),
    "dead zones, two binary digits, silent channels learn": Row(
        gathering(), change=silent_channels_learn
    ),
    "graded": Row(gathering()),
    "graded, steps of 1/2": Row(graded(step_size=0.5, levels=32)),
    "graded, steps of 1/8": Row(graded(step_size=0.125, levels=128)),
    "graded, thresholds from 0": Row(graded(dead_zone=0.0)),
    "graded, thresholds from 0.6": Row(graded(dead_zone=0.6)),
    "graded, a threshold per channel": Row(gathering(), change=thresholds_by_channel),
    "graded, hard thresholds": Row(gathering(), change=hard_thresholds),
    "graded, thresholds that bend": Row(gathering(), change=bent_thresholds),
    "graded, the budget falls from 1": Row(gathering(), on_step=falling_budget),
    "graded, signed hidden counts": Row(graded("hidden", signed=True)),
    "graded, a gate of spikes in the MLP": Row(
        {**gathering(), "intermediate_size": 171}, change=gate_hidden
    ),
    "graded, token shift": Row({**gathering(), "token_shift": True}),
    "dead zones, no budget, softmax and one winner, fine counts before W_o": Row(
        averaging("softmax", 0.999), change=mixed
    ),
    "dead zones, no budget, four winners, their mean handed on": Row(
        {**winners(4), **NO_BUDGET}, change=handed_on
    ),
    "dead zones, no budget, one winner, from the middle four": Row(
        {**winners(4), **NO_BUDGET}, change=handed_on, on_step=more_winners
    ),
    "dead zones, no budget, token shift": Row({**NO_BUDGET, "token_shift": True}),
    "dead zones, heads may rest": Row(DEAD_ZONES, change=rests),
    "dead zones, sixteen heads": Row({**DEAD_ZONES, "num_attention_heads": 16}),
    "A2OS2A, NI-LIF": Row(A2OS2A),
    "A2OS2A, dead zones": Row(OPEN),
    "A2OS2A, dead zones, no norms behind the maps": Row({**OPEN, "projection_norm": False}),
    "masked: dense twin, rotary positions": Row(twin=True, masked=True),
    "masked: NI-LIF": Row(masked=True),
    "masked: NI-LIF, heads begin beside the query": Row(masked=True, change=neighbours_first),
    "masked: dead zones": Row(DEAD_ZONES, masked=True),
    "masked: dead zones, heads begin beside the query": Row(
        DEAD_ZONES, masked=True, change=neighbours_first
    ),
    "masked: dead zones, two binary digits": Row(gathering(), masked=True),
    "masked: dead zones, two binary digits, heads begin beside the query": Row(
        gathering(), masked=True, change=neighbours_first
    ),
    "masked: dead zones, softmax": Row(SUMMED, masked=True),
    "masked: real values, no norms behind the maps": Row(PLAIN, masked=True),
}
