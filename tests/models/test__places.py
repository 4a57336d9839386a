"""Neurons by place: what a config may say, which neuron lands where, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from spikeformers.errors import ConfigError
from spikeformers.models import DEAD_ZONES, WDSpikingformerConfig, build_config, build_model
from spikeformers.models._places import PLACES, neuron_at
from spikeformers.models.loading import load_weights
from spikeformers.neurons import ILIF, LIF, NILIF, DeadZone, neurons_of
from spikeformers.runs.recipe import from_assignments

Make = Callable[..., Any]
DEAD_ZONE: dict[str, Any] = {"neuron": "dead-zone", "levels": 64, "target": 0.25}
# What each place is in a block, and outside.
MODULES = {
    "in": "attention.fire_in",
    "mlp_in": "mlp.fire_in",
    "query": "attention.fire_query",
    "key": "attention.fire_key",
    "value": "attention.fire_value",
    "out": "attention.fire_out",
    "hidden": "mlp.fire_hidden",
}


def name_of(place: str) -> str:
    return "head_neuron" if place == "head" else f"model.layers.1.{MODULES[place]}.neuron"


@pytest.mark.parametrize("family", ["wd", "we"])
@pytest.mark.parametrize("place", PLACES)
def test_a_place_has_its_neuron_and_the_others_keep_theirs(
    place: str, family: str, make_model: Make
) -> None:
    own = {"neuron": "dead-zone", "levels": 9, "step_size": 0.5, "dead_zone": 0.7, "signed": False}
    model = make_model(
        family, wta="top_k", levels=4, spiking_head=True, neurons={place: own | {"target": 0.1}}
    )
    neurons = neurons_of(model)
    moved = {name_of(place)} | ({name_of("mlp_in")} if place == "in" else set())
    for name in map(name_of, PLACES):
        neuron = neurons[name]
        if name in moved:
            assert isinstance(neuron, DeadZone)
            assert (neuron.levels, neuron.step_size, neuron.signed) == (9, 0.5, False)
            assert neuron.initial_threshold == 0.7
            assert neuron.own_target == 0.1
            assert neuron.unit == 0.5
        else:
            assert isinstance(neuron, ILIF if name == "head_neuron" else NILIF)
            assert (neuron.levels, neuron.own_target) == (4, None)


def test_the_place_before_the_mlp_can_differ_from_that_before_attention() -> None:
    config = WDSpikingformerConfig(neurons={"in": DEAD_ZONE, "mlp_in": {"levels": 3}})
    assert isinstance(neuron_at(config, "in"), DeadZone)
    assert isinstance(neuron_at(config, "mlp_in"), NILIF)
    assert neuron_at(config, "mlp_in").levels == 3


def test_fields_that_a_place_does_not_name_are_those_of_the_config() -> None:
    neurons = {"query": {"neuron": "dead-zone"}, "key": {"neuron": "lif", "threshold": 2.0}}
    config = WDSpikingformerConfig(levels=6, step_size=0.5, decay=0.25, neurons=neurons)
    query, key = neuron_at(config, "query"), neuron_at(config, "key")
    assert isinstance(query, DeadZone)
    assert isinstance(key, LIF)
    assert (query.levels, query.step_size, query.decay) == (6, 0.5, 0.25)
    assert (key.threshold, key.decay) == (2.0, 0.25)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"neurons": {"quary": {}}}, r"neurons names 'quary'.*Did you mean 'query'"),
        ({"neurons": {"query": {"level": 3}}}, r"names 'level'; its options are.*'levels'"),
        ({"neurons": {"query": 3}}, "must be a mapping of names to a mapping of names to values"),
        ({"neurons": {"query": {"target": 1.0}}}, r"must be a density in \[0, 1\), not 1.0"),
        ({"neurons": {"query": {"target": -0.1}}}, "must be a density"),
        ({"neurons": {"query": {"target": "low"}}}, "low"),
        ({"neurons": {"query": {"neuron": "dead-zoen"}}}, "dead-zone"),
        ({"neurons": {"query": DEAD_ZONE | {"levels": 0}}}, "levels must be at least 1"),
        ({"neurons": {"query": DEAD_ZONE | {"step_size": 0.0}}}, "step_size must be"),
        ({"neurons": {"query": DEAD_ZONE | {"dead_zone": -1.0}}}, "dead_zone must be"),
        ({"neurons": {"out": DEAD_ZONE}}, "with one winner hands on its spikes"),
        ({"neurons": {"head": DEAD_ZONE}, "spiking_head": False}, "spiking_head=False"),
        (
            {"neurons": {"query": DEAD_ZONE}, "attention": "a2os2a", "position": "learned"},
            "attention='a2os2a' sets this neuron itself: use query_neuron",
        ),
    ],
)
def test_what_there_is_not_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        WDSpikingformerConfig(**({"spiking_head": True} | changes))


def test_a2os2a_takes_neurons_where_it_leaves_the_place_open(make_model: Make) -> None:
    neurons = dict.fromkeys(("in", "out", "hidden"), DEAD_ZONE)
    model = make_model("wd", attention="a2os2a", position="learned", neurons=neurons)
    assert isinstance(model.model.layers[0].attention.fire_out.neuron, DeadZone)
    assert isinstance(model.model.layers[0].mlp.fire_hidden.neuron, DeadZone)


def test_bispikclm_has_no_neurons_by_place() -> None:
    with pytest.raises(ConfigError, match="neurons"):
        build_config("bispikclm-tiny", 259, {"neurons": {"in": DEAD_ZONE}})


def test_the_command_line_says_neurons_as_yaml() -> None:
    text = "neurons={in: {neuron: dead-zone, levels: 64, target: 0.25}, query: {levels: 8}}"
    recipe = from_assignments([text], "wd-spikingformer-tiny")
    config = build_config(recipe.preset or "wd-spikingformer-tiny", 259, recipe.model)
    assert config.neurons == {"in": DEAD_ZONE, "query": {"levels": 8}}


@torch.no_grad()
def test_a_saved_model_is_the_same_when_loaded(make_model: Make, tmp_path: Path) -> None:
    neurons = {"in": DEAD_ZONE, "query": DEAD_ZONE | {"signed": False}, "head": DEAD_ZONE}
    model = make_model("wd", spiking_head=True, neurons=neurons)
    model.save_pretrained(tmp_path)
    loaded = load_weights(tmp_path)
    assert loaded.config.neurons == neurons
    ids = torch.arange(12).view(2, 6)
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    thresholds = [n for n in model.state_dict() if n.endswith("neuron.threshold")]
    assert len(thresholds) == 2 * 3 + 1  # in, mlp_in and query of two blocks, and the head


@torch.no_grad()
def test_a_new_model_starts_at_the_thresholds_of_its_config() -> None:
    config = build_config(
        "wd-spikingformer-tiny", 259, {"neurons": {"in": DEAD_ZONE}, "dead_zone": 0.45}
    )
    thresholds = [n.threshold.item() for n in neurons_of(build_model(config)).values()
                  if isinstance(n, DeadZone)]  # fmt: skip
    assert thresholds == pytest.approx([0.45] * 2 * config.num_hidden_layers)


@pytest.mark.parametrize("preset", ["wd-spikingformer-tiny", "we-spikingformer-tiny"])
def test_without_neurons_by_place_the_neuron_of_the_config_is_everywhere(preset: str) -> None:
    """Bit for bit: naming every place with the config's own neuron builds the same model."""
    config = build_config(preset, 259, {"neurons": None})
    places = [place for place in PLACES if place != "out"]
    own = {"neuron": config.neuron, "levels": config.levels}
    named = build_config(preset, 259, {"neurons": dict.fromkeys(places, own)})
    states = []
    for each in (config, named):
        torch.manual_seed(3)
        states.append(build_model(each).state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    kinds = {type(neuron) for neuron in neurons_of(build_model(config)).values()}
    assert kinds == ({NILIF, ILIF} if config.spiking_head else {NILIF})


def test_neurons_by_place_are_shown_by_place() -> None:
    places = {"in": DEAD_ZONE, "query": DEAD_ZONE, "value": {"levels": 2}, "head": DEAD_ZONE}
    config = build_config("wd-spikingformer-tiny", 259, {"neurons": places})
    dead_zone = "dead-zone, 1x64 (T x D)"
    assert config.neuron_rows() == {
        "neuron at in, mlp_in, query, head": f"{dead_zone}, -64, ... 64, times 0.25, "
        "target density 0.25",
        "neuron at value": "ni-lif, 1x2 (T x D), 0, 1/2, ... 2/2",
    }
    assert config.card_rows().items() >= config.neuron_rows().items()
    assert config.card_rows()["neuron"] == "ni-lif, 1x16 (T x D)"
    assert (
        build_config("wd-spikingformer-tiny", 259, DEAD_ZONES).card_rows()["neuron"] == "by place"
    )
    assert build_config("wd-spikingformer-tiny", 259, {"neurons": None}).neuron_rows() == {}
