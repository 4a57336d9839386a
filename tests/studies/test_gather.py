from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from spikeformers.energy import density_of, raster_of
from spikeformers.studies import gather


@pytest.mark.parametrize(
    ("name", "block", "point"),
    [
        ("model.layers.3.attention.fire_query.neuron", 3, "query"),
        ("model.layers.10.mlp.fire_hidden.neuron", 10, "MLP hidden"),
        ("head_neuron", None, "head"),
    ],
)
def test_point_of(name, block, point):
    assert gather.point_of(name) == (block, point)


def test_loss_curve_averages_neighbours(tmp_path):
    lines = [
        {"kind": "train", "step": s, "tokens_seen": 10 * s, "loss": s + 0.5, "lm_loss": float(s)}
        for s in range(1, 101)
    ]
    lines.append({"kind": "validation", "step": 100, "tokens_seen": 1000, "loss": 7.0})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    curve = gather.loss_curve("x", tmp_path)
    assert len(curve.loss) == 50
    assert (curve.tokens[0], curve.loss[0]) == (15.0, 1.5)  # the penalty is left out
    assert (curve.validation_tokens, curve.validation) == ([1000], [7.0])


def test_densities_by_point_and_outside(build):
    model = build(spiking_head=True)
    result = density_of(model, [torch.arange(20).reshape(1, 20)])
    density = {name: spikes.density for name, spikes in result.items()}
    points = gather.by_point(density)
    assert list(points) == [
        *("attention input", "query", "key", "value", "attention output"),
        *("MLP input", "MLP hidden"),
    ]
    assert points["key"] == [
        density[f"model.layers.{b}.attention.fire_key.neuron"] for b in range(2)
    ]
    assert gather.outside_blocks(density) == {"head": density["head_neuron"]}


def test_a_point_that_only_some_blocks_have():
    density = {"model.layers.1.mlp.fire_in.neuron": 0.5, "model.layers.0.x.neuron": 0.25}
    assert gather.by_point(density) == {"MLP input": [None, 0.5], "x": [0.25, None]}


def test_rasters_are_those_of_the_block(build):
    model, ids = build(), torch.arange(12).reshape(1, 12)
    result, levels = gather.rasters(model, ids, block=1, units=8)
    assert next(iter(result)) == "attention input"
    assert all(counts.shape == (12, 8) for counts in result.values())
    whole = raster_of(model, ids, "model.layers.1.mlp.fire_hidden.neuron")
    chosen = np.linspace(0, 31, 8).astype(int)
    assert np.array_equal(result["MLP hidden"], whole.T[:, chosen])
    assert levels == max(int(counts.max()) for counts in result.values())


def test_weights_of_evenly_spaced_blocks(build):
    model = build(num_hidden_layers=5, attention="cwssa")
    result = gather.attention_weights(model, torch.arange(6).reshape(1, 6), most=3)
    assert list(result) == ["block 1 of 5", "block 3 of 5", "block 5 of 5"]
    for weights in result.values():
        assert weights.shape == (2, 6, 6)
        assert np.array_equal(weights.sum(-1), np.ones((2, 6)))
        assert np.array_equal(np.triu(weights, 1), np.zeros_like(weights))


def test_tokens_are_spelled(tokens):
    assert gather.spelled(tokens.tokenizer, [72, 105]) == ["H", "i"]


def test_windows_are_spread_over_the_split(tokens):
    split = tokens.store.split("validation")
    windows = gather.windows_of(split, 16, 80, batch_size=2)
    assert [tuple(ids.shape) for ids in windows] == [(2, 16), (2, 16), (1, 16)]
    last = (split.num_tokens // 16 - 1) * 16
    assert windows[0][0].tolist() == split.tokens[:16].tolist()
    assert windows[-1][-1].tolist() == split.tokens[last : last + 16].tolist()


def test_a_split_shorter_than_the_context(tokens):
    split = tokens.store.split("validation")
    (only,) = gather.windows_of(split, 10**6, 10)
    assert only.shape == (1, split.num_tokens)
