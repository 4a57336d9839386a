"""Presets have dead zones and graded winners; what is chosen beside one holds at every place."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from spikeformers.errors import ConfigError
from spikeformers.models import (
    DEAD_ZONES,
    PRESETS,
    WDSpikingformerConfig,
    build_config,
    build_model,
)
from spikeformers.models._places import PLACES, has_neuron, neuron_at
from spikeformers.neurons import ILIF, NILIF, DeadZone, neurons_of

TINY = "wd-spikingformer-tiny"
FIELDS = ("projection_norm", "budget", "neurons")
OWN = {key: getattr(WDSpikingformerConfig(), key) for key in FIELDS}
"""What the config class has without a preset: the paper's neuron."""


def chosen(**choices: Any) -> Any:
    return build_config(TINY, 259, choices)


def of_neurons(config: Any) -> dict[str, Any]:
    return {key: getattr(config, key) for key in FIELDS}


OUT = {"neuron": "dead-zone", "levels": 64, "step_size": 1 / 16, "dead_zone": 1 / 32}
"""The neuron of means, before the output map."""
OF_PRESETS = {**DEAD_ZONES, "neurons": {**DEAD_ZONES["neurons"], "out": OUT}}


def at_places(config: Any, field: str) -> dict[str, Any]:
    """The value of a neuron's attribute at each place that has a neuron."""
    return {
        place: getattr(neuron_at(config, place), field)
        for place in PLACES
        if has_neuron(config, place)
    }


@pytest.mark.parametrize("preset", [name for name in PRESETS if name.startswith("wd-")])
def test_presets_of_the_causal_model_have_dead_zones(preset: str) -> None:
    config = build_config(preset, 259)
    assert of_neurons(config) == OF_PRESETS
    assert (config.attention, config.weight_digits, config.sum_norm) == ("power-of-two", 2, False)


@pytest.mark.parametrize("preset", ["we-spikingformer-tiny", "bispikclm-tiny"])
def test_presets_of_other_models_have_the_neuron_of_their_paper(preset: str) -> None:
    neurons = neurons_of(build_model(build_config(preset, 259)))
    assert not any(isinstance(neuron, DeadZone) for neuron in neurons.values())


def test_a_config_without_a_preset_has_the_neuron_of_the_paper() -> None:
    assert OWN == {"projection_norm": True, "budget": None, "neurons": None}
    assert WDSpikingformerConfig().neuron == "ni-lif"


def test_the_neurons_of_a_preset_are_signed_quarter_steps_behind_no_norm() -> None:
    neurons = neurons_of(build_model(chosen(num_hidden_layers=1)))
    assert {type(neuron) for neuron in neurons.values()} == {DeadZone}
    steps = {name.split("fire_")[-1]: neuron.step_size for name, neuron in neurons.items()}
    assert steps.pop("out.neuron") == 1 / 16  # of a mean
    assert set(steps.values()) == {0.25}
    unsigned = {name.split("fire_")[-1] for name, neuron in neurons.items() if not neuron.signed}
    assert unsigned == {"hidden.neuron"}
    learned = {n.split("fire_")[-1] for n, neuron in neurons.items() if neuron.gain is not None}
    assert learned == {f"{place}.neuron" for place in ("query", "key", "value", "hidden")}
    gain = 1 / (0.02 * 128**0.5 * 0.7)  # weights of 0.02, 128 inputs of size 0.7
    assert neurons["model.layers.0.attention.fire_query.neuron"].gain.item() == pytest.approx(gain)


@pytest.mark.parametrize(
    "choices",
    [
        {"neuron": "ni-lif"},
        {"neuron": "lif", "steps": 2},
        {"neuron": "t-lif", "steps": 2},
        {"neuron": "dead-zone", "levels": 8},
        {"neurons": None},
    ],
    ids=str,
)
def test_a_chosen_neuron_is_everywhere_with_norms_and_without_a_budget(
    choices: dict[str, Any],
) -> None:
    config = chosen(**choices)
    assert of_neurons(config) == OWN
    assert config == WDSpikingformerConfig(vocab_size=259, **PRESETS[TINY], **choices)


def test_neurons_by_place_that_are_chosen_take_the_place_of_all_of_the_presets() -> None:
    mine = {"in": {"neuron": "dead-zone", "levels": 8}}
    config = chosen(neurons=mine)
    assert of_neurons(config) == {**OWN, "neurons": mine}
    kinds = {type(neuron) for neuron in neurons_of(build_model(config)).values()}
    assert kinds == {DeadZone, NILIF, ILIF}


def test_norms_and_a_budget_can_be_chosen_beside_a_neuron() -> None:
    config = chosen(neuron="dead-zone", projection_norm=False, budget=0.2)
    assert of_neurons(config) == {"projection_norm": False, "budget": 0.2, "neurons": None}
    with pytest.raises(ConfigError, match="no neuron before weights has one"):
        chosen(neuron="ni-lif", budget=0.2)


@pytest.mark.parametrize(
    ("field", "value", "attribute"),
    [
        ("levels", 4, "levels"),
        ("step_size", 0.5, "step_size"),
        ("signed", False, "signed"),
        ("signed", True, "signed"),
        ("dead_zone", 0.7, "initial_threshold"),
        ("decay", 0.25, "decay"),
        ("gain", 3.0, "initial_gain"),
    ],
)
def test_a_chosen_field_of_neurons_holds_at_every_place_and_keeps_the_dead_zones(
    field: str, value: Any, attribute: str
) -> None:
    config = chosen(**{field: value})
    assert set(at_places(config, attribute).values()) == {value}
    assert (config.projection_norm, config.budget) == (False, 0.35)
    assert set(config.neurons) == set(OF_PRESETS["neurons"])


@pytest.mark.parametrize(
    "choices", [{"firing_rate_target": 0.05}, {"firing_rate_targets": {"attention": 0.05}}]
)
def test_chosen_targets_take_the_place_of_the_budget(choices: dict[str, Any]) -> None:
    config = chosen(**choices)
    assert config.budget is None
    assert set(at_places(config, "own_target").values()) == {None}
    assert all(isinstance(neuron_at(config, place), DeadZone) for place in DEAD_ZONES["neurons"])
    assert chosen(**choices, budget=0.3).budget == 0.3


@pytest.mark.parametrize("choices", [{"spiking_head": False}, {"firing_rate_weight": 0.0}])
def test_what_leaves_a_budget_nothing_to_hold_leaves_the_preset_none(
    choices: dict[str, Any],
) -> None:
    config = chosen(**choices)
    assert config.budget is None
    assert ("head" in config.neurons) == config.spiking_head
    with pytest.raises(ConfigError, match="budget"):
        chosen(**choices, budget=0.3)


@pytest.mark.parametrize(
    "choices",
    [
        {"wta": "top_k"}, {"wta": "sparsemax"}, {"attention": "softmax"}, {"attention": "ssa"},
        {"attention": "power-of-two"},
    ],
    ids=str,
)  # fmt: skip
def test_attention_that_sums_rows_fires_again_with_a_dead_zone(choices: dict[str, Any]) -> None:
    model = build_model(chosen(num_hidden_layers=1, **choices))
    fire_out = model.model.layers[0].attention.fire_out
    assert isinstance(fire_out.neuron, DeadZone)
    ids = torch.randint(0, 259, (2, 12))
    loss = model.train()(ids, labels=ids).loss
    loss.backward()
    assert loss.isfinite()
    grads = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(grad is None or grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("attention", ["softmax", "power-of-two"])
def test_means_of_rows_have_finer_steps_and_no_norm(attention: str) -> None:
    config = chosen(attention=attention)
    assert (config.sum_norm, config.attention_scale) == (False, 0.25)  # heads of 16
    assert config.neurons["out"] == OUT
    assert config.neurons["in"] == DEAD_ZONES["neurons"]["in"]
    own = chosen(attention=attention, sum_norm=True, attention_scale=4.0, step_size=0.5)
    assert (own.sum_norm, own.attention_scale) == (True, 4.0)
    assert neuron_at(own, "out").step_size == 0.5


@pytest.mark.parametrize("choices", [{"wta": "top_k"}, {"attention": "ssa"}], ids=str)
def test_sums_of_rows_keep_norm_and_steps(choices: dict[str, Any]) -> None:
    config = chosen(**choices)
    assert (config.sum_norm, config.attention_scale) == (True, None)
    assert config.neurons["out"] == DEAD_ZONES["neurons"]["in"]


@pytest.mark.parametrize("choices", [{"pre_norm": False, "output_norm": True}, {"norm": "none"}])
def test_without_norms_before_neurons_the_neuron_is_the_config_s(choices: dict[str, Any]) -> None:
    assert of_neurons(chosen(**choices)) == OWN


def test_attention_with_neurons_of_its_own_keeps_those_and_the_config_s() -> None:
    config = chosen(attention="a2os2a")
    assert of_neurons(config) == OWN
    assert (config.query_neuron, config.key_neuron) == ("binary", "relu")


def test_a_budget_is_chosen_without_changing_neurons() -> None:
    assert of_neurons(chosen(budget=0.2)) == {**OF_PRESETS, "budget": 0.2}
    assert of_neurons(chosen(budget=None)) == {**OF_PRESETS, "budget": None}
    assert of_neurons(chosen(projection_norm=True)) == {**OF_PRESETS, "projection_norm": True}


@pytest.mark.parametrize(
    "choices",
    [{"attention": "cwssa"}, {"wta": "hard"}, {"winners": 3}, {"winner_weight": "one"}],
    ids=str,
)
def test_a_field_of_a_competition_chooses_it(choices: dict[str, Any]) -> None:
    config = chosen(**choices)
    assert (config.attention, config.wta, config.sum_norm) == ("cwssa", "hard", True)
    assert of_neurons(config) == DEAD_ZONES


@pytest.mark.parametrize("choices", [{"neuron": "ni-lif"}, {"neurons": None}, {"norm": "none"}])
def test_without_dead_zones_a_preset_has_the_competition_of_the_paper(
    choices: dict[str, Any],
) -> None:
    config = chosen(**choices)
    assert (config.attention, config.wta, config.attention_scale) == ("cwssa", "hard", None)
