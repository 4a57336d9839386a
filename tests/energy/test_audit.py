from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from spikeformers.energy import operands_of, without_spikes
from spikeformers.errors import SpikeformersError

Make = Callable[..., Any]
NEURONS = {"ni-lif": "integer", "i-lif": "integer", "lif": "binary", "t-lif": "ternary"}
ATTENTION: list[dict[str, Any]] = [
    {"wta": "hard"},
    {"wta": "top_k"},
    {"wta": "top_k", "winner_weight": "mean"},
    {"wta": "sparsemax"},
    {"attention": "ssa"},
    {"attention": "softmax"},
]


@pytest.mark.parametrize("kind", ["wd", "we"])
@pytest.mark.parametrize("neuron", NEURONS)
@pytest.mark.parametrize("attention", ATTENTION)
def test_every_product_in_the_blocks_has_spikes_on_one_side(
    spiking: Make, ids: Tensor, kind: str, neuron: str, attention: dict[str, Any]
) -> None:
    model = spiking(kind, neuron=neuron, steps=2, **attention)
    products = operands_of(model, ids)
    assert len(products) == 2 * 8  # q, k, v, scores, values, out, up, down
    assert without_spikes(products) == []
    for product in products:
        if product.role == "linear":
            assert (product.left.kind, product.right.kind) == (NEURONS[neuron], "real")
        elif product.role == "scores":
            assert product.left.kind == product.right.kind == NEURONS[neuron]
        else:
            assert product.right.kind == NEURONS[neuron]
            if attention.get("wta") in ("hard", "top_k"):
                assert product.left.kind == "binary"


@pytest.mark.parametrize("block", [{"pre_norm": False}, {"projection_norm": False}])
def test_other_blocks_too(spiking: Make, ids: Tensor, block: dict[str, Any]) -> None:
    assert without_spikes(operands_of(spiking("wd", **block), ids)) == []


@pytest.mark.parametrize("kind", ["wd", "we"])
@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_the_dense_twin_fails(dense: Make, ids: Tensor, kind: str, positions: str) -> None:
    products = operands_of(dense(kind, positions), ids)
    assert len(products) >= 2 * 6
    assert without_spikes(products) == [product.name for product in products]


def test_the_head_is_dense_unless_it_spikes(spiking: Make, ids: Tensor) -> None:
    plain = operands_of(spiking("wd"), ids, blocks_only=False)
    assert without_spikes(plain) == ["lm_head"]
    spiked = operands_of(spiking("wd", spiking_head=True), ids, blocks_only=False)
    assert without_spikes(spiked) == []


def test_real_numbers_sneaked_into_a_block_are_found(spiking: Make, ids: Tensor) -> None:
    model = spiking("wd")
    model.model.layers[1].mlp.fire_hidden.neuron = torch.nn.GELU()
    assert without_spikes(operands_of(model, ids)) == ["model.layers.1.mlp.down"]


def test_a_functional_product_in_a_block_is_found(spiking: Make, ids: Tensor) -> None:
    model = spiking("wd")
    norm = model.model.layers[0].mlp.out_norm
    norm.register_forward_hook(lambda module, args, out: out @ torch.eye(16))
    with pytest.raises(SpikeformersError, match=r"in model\.layers\.0\.mlp"):
        operands_of(model, ids)
