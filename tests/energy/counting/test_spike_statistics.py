from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from spikeformers.energy import (
    density_by_position,
    density_of,
    energy_of,
    neuron_names,
    raster_of,
    winners_of_sentence,
)
from spikeformers.errors import ConfigError

Make = Callable[..., Any]


def test_density_is_that_of_the_energy_report(spiking: Make, ids: Tensor) -> None:
    model = spiking("wd", spiking_head=True)
    densities = density_of(model, [ids, ids[:1]])
    assert densities == energy_of(model, [ids, ids[:1]]).neurons
    assert list(densities) == neuron_names(model) or set(densities) == set(neuron_names(model))


@pytest.mark.parametrize("overrides", [{}, {"neuron": "lif", "steps": 3}, {"neuron": "t-lif"}])
def test_a_raster_holds_the_counts(spiking: Make, ids: Tensor, overrides: dict[str, Any]) -> None:
    model = spiking("wd", **overrides)
    name = "model.layers.1.mlp.fire_hidden.neuron"
    raster = raster_of(model, ids[0], name)
    assert raster.shape == (32, 7)
    assert np.array_equal(raster, raster.round())
    assert np.abs(raster).sum() == density_of(model, [ids[:1]])[name].total
    assert (raster.min() < 0) == (overrides.get("neuron") == "t-lif")


def test_a_raster_of_the_expanded_model_is_the_same(spiking: Make, ids: Tensor) -> None:
    model = spiking("wd")
    name = "model.layers.0.attention.fire_in.neuron"
    expanded = raster_of(model.expand_to_binary(), ids[0], name)
    assert np.array_equal(expanded, raster_of(model, ids[0], name))


def test_density_by_position(spiking: Make, dense: Make, ids: Tensor) -> None:
    model = spiking("wd", neuron="lif", steps=2)
    by_position = density_by_position(model, [ids, ids[:1]])
    assert by_position.shape == (7,)
    layers = density_of(model, [ids, ids[:1]]).values()
    assert by_position.mean() == pytest.approx(
        sum(by_sentence.density for by_sentence in layers) / len(layers)
    )
    # Of a causal model what comes later changes nothing; padding weighs nothing.
    assert density_by_position(model, [ids[:, :3], ids[:1, :3]]) == pytest.approx(by_position[:3])
    mask = torch.ones_like(ids)
    mask[1] = 0
    by_sentence = density_by_position(model, [{"input_ids": ids, "attention_mask": mask}])
    assert by_sentence == pytest.approx(density_by_position(model, [ids[:1]]))
    with pytest.raises(ConfigError, match="has no neurons whose"):
        density_by_position(dense("wd"), [ids])


def test_edges_belong_to_pairs_of_tokens(binary: Any, ids: Tensor) -> None:
    """Two rows and two heads, so that the shapes say nothing: the second row is padded twice."""
    texts = [ids[:1], ids[1:2, :5]]
    padded = torch.cat([ids[:1], torch.cat([texts[1], torch.zeros_like(ids[:1, :2])], 1)])
    mask = torch.ones_like(padded)
    mask[1, 5:] = 0
    batch = {"input_ids": padded, "attention_mask": mask}
    assert density_of(binary, [batch]) == density_of(binary, texts)
    assert sum(name.endswith("core.neuron") for name in density_of(binary, [batch])) == 2
    result, alone = (density_by_position(binary, arguments) for arguments in ([batch], texts))
    assert result == pytest.approx(alone)
    assert density_by_position(binary, [texts[0]]) == pytest.approx(
        density_by_position(binary, [texts[0].expand(2, -1)])
    )


def test_an_unknown_layer_names_the_nearest(spiking: Make, dense: Make, ids: Tensor) -> None:
    with pytest.raises(ConfigError, match=r"Did you mean 'model\.layers\.0\.mlp\.fire_in\.neuron'"):
        raster_of(spiking("wd"), ids[0], "model.layers.0.mlp.fire_in.neurn")
    with pytest.raises(ConfigError, match="has no neurons"):
        raster_of(dense("wd"), ids[0], "x")


def test_winners(spiking: Make, ids: Tensor) -> None:
    hard = winners_of_sentence(spiking("wd"), ids[0])
    assert hard.shape == (2, 2, 7, 7)
    assert np.array_equal(hard.sum(-1), np.ones((2, 2, 7)))
    assert set(np.unique(hard)) == {0.0, 1.0}
    assert not np.triu(hard, 1).any()
    top = winners_of_sentence(spiking("wd", wta="top_k", winners=3), ids[:1])
    assert np.array_equal(top.sum(-1)[0, 0], [1, 2, 3, 3, 3, 3, 3])


def test_a_fused_dense_model_shows_no_weights(dense: Make, ids: Tensor) -> None:
    model = dense("wd")
    with pytest.raises(ConfigError, match="eager"):
        winners_of_sentence(model, ids[0])
    model.set_attn_implementation("eager")
    assert winners_of_sentence(model, ids[0]).sum(-1) == pytest.approx(np.ones((2, 2, 7)))
