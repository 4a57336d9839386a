from __future__ import annotations

import pytest
import torch

from spikeformers.energy import audit
from spikeformers.models import build_model, build_vision_config
from spikeformers.studies import describe


def types(described):
    return {row["point"]: row["spike_type"] for row in described["points"]}


def test_points_of_hard_winners(build):
    model = build(spiking_head=False, attention="cwssa")
    described = describe(model)
    assert types(described) == {
        "embedding": "real",
        "stream between blocks": "real",
        "attention input": "integer",
        "query": "integer",
        "key": "integer",
        "value": "integer",
        "attention scores q k": "integer",
        "attention weights": "binary",
        "attention output": "integer",
        "MLP input": "integer",
        "MLP hidden": "integer",
        "head input": "real",
        "logits": "real",
    }
    assert described["parameters"] == model.num_parameters()
    assert sum(row["parameters"] for row in described["tensors"]) == model.num_parameters()


def test_a_token_shift_shows_at_the_points_that_read_it(build):
    values = {
        row["point"] for row in describe(build(token_shift=True))["points"]
        if row["values"].endswith("; half of them from the token before")
    }  # fmt: skip
    assert values == {"attention input", "MLP input"}


def test_what_it_says_of_operands_is_what_a_trace_sees(build):
    model = build(attention="cwssa")
    seen = audit(model, [torch.arange(24).reshape(1, 24)]).products()
    described = types(describe(model))
    first = "model.layers.0"
    assert seen[f"{first}.attention.query"].operands[0].kind == described["attention input"]
    assert seen[f"{first}.attention.core.values"].operands[0].kind == described["attention weights"]
    assert seen[f"{first}.attention.core.values"].operands[1].kind == described["value"]
    assert seen[f"{first}.attention.out"].operands[0].kind == described["attention output"]
    assert seen[f"{first}.mlp.up"].operands[0].kind == described["MLP input"]
    assert seen[f"{first}.mlp.down"].operands[0].kind == described["MLP hidden"]


NI_LIF = {"neuron": "ni-lif", "levels": 4}


@pytest.mark.parametrize(
    ("changes", "neuron", "weights", "values"),
    [
        ({"neuron": "lif"}, "binary", "binary", "0, 1"),
        ({"neuron": "t-lif"}, "ternary", "binary", "-a, 0, a"),
        ({"neuron": "i-lif", "levels": 3}, "integer", "binary", "0, 1, ... 3"),
        ({"wta": "top_k", **NI_LIF}, "integer", "binary", "0, 1/4, ... 4/4"),
        ({"wta": "sparsemax", **NI_LIF}, "integer", "real", "0, 1/4, ... 4/4"),
        ({"attention": "softmax", **NI_LIF}, "integer", "real", "0, 1/4, ... 4/4"),
        ({"attention": "power-of-two", **NI_LIF}, "integer", "real", "0, 1/4, ... 4/4"),
    ],
)
def test_neurons_and_competitions(build, changes, neuron, weights, values):
    described = describe(build(**changes))
    assert types(described)["query"] == described["neuron"]["spike_type"] == neuron
    assert types(described)["attention weights"] == weights
    assert described["neuron"]["values"] == values
    fired = changes.get("wta", "hard") != "hard" or "attention" in changes
    assert ("weights times value" in types(described)) == fired


def test_a_spiking_head(build):
    assert types(describe(build(spiking_head=True)))["head input"] == "integer"


def test_a_dense_twin(build):
    described = describe(build(control=True))
    assert (described["neuron"], described["attention"]) == (None, None)
    assert described["shape"]["width"] == 16
    assert set(types(described).values()) == {"real"}


def test_the_meta_device_will_do(build):
    with torch.device("meta"):
        described = describe(build())
    assert described == describe(build())


def test_an_attention_without_competition(build):
    described = describe(build(attention="a2os2a", position="learned"))
    points = {row["point"]: row for row in described["points"]}
    assert points["key"]["values"] == "real numbers, 0 or greater"
    assert points["Q K^T V"]["values"] == "sums of entries of K with signs; order scores"
    assert "attention weights" not in points
    report = described["attention"]
    assert (report["competition"], report["winners"], report["softmax_free"]) == (None, None, True)
    assert describe(build(attention="softmax"))["attention"]["softmax_free"] is False


def test_a_value_that_is_rectified():
    config = build_vision_config("a2os2a-digits", {"attention": "ssa", "value_neuron": "relu"})
    points = {row["point"]: row["values"] for row in describe(build_model(config))["points"]}
    assert points["value"] == "real numbers, 0 or greater"
    assert points["weights times value"] == "a sum of values"
