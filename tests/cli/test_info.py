from __future__ import annotations

import pytest

from spikeformers.models import PRESETS, load_model


def test_json_of_a_model(spikeformers, causal):
    described = spikeformers("info", causal, "--json").json
    model, _ = load_model(causal)
    assert described["parameters"] == model.num_parameters()
    assert described["model"] == str(causal)
    assert described["shape"] == {
        "width": 16, "layers": 2, "heads": 2, "MLP width": 64, "vocabulary": 258, "positions": 32
    }  # fmt: skip
    assert (described["neuron"]["kind"], described["neuron"]["levels"]) == ("by place", 64)
    assert sum(row["parameters"] for row in described["tensors"]) == described["parameters"]


def test_the_tables(spikeformers, causal):
    ended = spikeformers("info", causal, "--tensors")
    assert ended.code == 0
    for text in (
        "by place, 15 layers",
        "dead-zone, 1x64 (T x D)",
        "power-of-two, causal",
        "-64, ... 64",
    ):
        assert text in ended.out
    assert "model.layers.*.mlp.up.weight" in ended.out


def test_a_dense_model(spikeformers, control):
    described = spikeformers("info", control, "--json").json
    assert (described["neuron"], described["attention"]) == (None, None)
    assert {point["spike_type"] for point in described["points"]} == {"real"}


@pytest.mark.parametrize("preset", [name for name in PRESETS if name.endswith(("tiny", "1.0b"))])
def test_a_preset_needs_no_weights(spikeformers, preset):
    described = spikeformers("info", preset, "--json").json
    assert described["shape"]["width"] == PRESETS[preset]["hidden_size"]
    if preset.endswith("1.0b"):
        assert 0.9e9 < described["parameters"] < 1.2e9


def test_an_unknown_model_names_the_nearest_preset(spikeformers):
    ended = spikeformers("info", "wd-spikingformer-tny")
    assert ended.code != 0
    assert "Did you mean 'wd-spikingformer-tiny'?" in ended.err
