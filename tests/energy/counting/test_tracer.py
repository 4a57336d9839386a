from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spikeformers.energy import Trace, trace
from spikeformers.errors import SpikeformersError
from spikeformers.layers import SpikeLinear
from spikeformers.neurons import LIF, NILIF, Neuron

Make = Callable[..., Any]


class Toy(nn.Module):
    """Embedding ``[V, D]`` -> neuron -> linear map, so that every count is known by hand."""

    def __init__(self, neuron: Neuron, currents: Tensor, outputs: int, steps: int = 1) -> None:
        super().__init__()
        self.embed = nn.Embedding.from_pretrained(currents)
        self.layers = nn.ModuleList([neuron])
        self.up = SpikeLinear(currents.shape[1], outputs, bias=False)
        self.steps = steps

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids).expand(self.steps, -1, -1, -1)
        y: Tensor = self.up(self.layers[0](x))
        return y


def test_a_toy_by_hand() -> None:
    currents = torch.tensor([[0.0, 1.0, 2.0, 9.0], [0.4, 0.0, 0.0, 2.2]])
    counted = trace(Toy(NILIF(levels=4), currents, outputs=3), torch.tensor([[0, 1, 1]]))
    up = counted.products["up"]  # counts 0 1 2 4, then twice 0 0 0 2
    assert counted.tokens == 3
    assert (up.left.kind, up.left.nonzero, up.left.total) == ("integer", 5, 11)
    assert (up.macs, up.sop) == (3 * 4 * 3, 11 * 3)
    assert counted.neurons["layers.0"].mean_count == 11 / 12
    assert counted.operations["neurons", 0] == {"compare": 4 * 12}
    assert counted.operations["embedding", None] == {"lookup": 12}


def test_every_simulation_step_is_counted() -> None:
    # decay 1, threshold 1, current 0.55: spikes 0 1 0 1 0; current 1.2: 1 1 1 1 1
    currents = torch.tensor([[0.55, 1.2]])
    toy = Toy(LIF(decay=1.0), currents, outputs=3, steps=5)
    up = trace(toy, torch.tensor([[0]])).products["up"]
    assert up.left.kind == "binary"
    assert (up.macs, up.sop) == (5 * 2 * 3, (2 + 5) * 3)


def test_the_unit_of_a_neuron_follows_its_spikes_through_views() -> None:
    class Split(Toy):
        def forward(self, input_ids: Tensor) -> Tensor:
            spikes = self.layers[0](self.embed(input_ids).unsqueeze(0))
            heads = spikes.unflatten(-1, (2, -1)).transpose(-2, -3).contiguous()
            y: Tensor = self.up(torch.cat([heads, heads], -1))
            return y

    currents = torch.tensor([[0.0, 2.0, 4.0, 0.0]])  # spikes 0 .5 1 0: by value a unit of .5
    counted = trace(Split(NILIF(levels=4), currents, outputs=3), torch.tensor([[0]]))
    assert counted.products["up"].left.total == 2 * (2 + 4)


def test_a_product_in_a_functional_call_is_not_overlooked() -> None:
    class Hidden(Toy):
        def forward(self, input_ids: Tensor) -> Tensor:
            y: Tensor = super().forward(input_ids)
            return torch.einsum("...i,...i->...", y, y)

    toy = Hidden(NILIF(), torch.tensor([[1.0, 2.0]]), outputs=3)
    with pytest.raises(SpikeformersError, match=r"1 matrix products of Hidden .* in the model"):
        trace(toy, torch.tensor([[0]]))


def test_a_second_product_inside_a_counted_module_is_not_overlooked() -> None:
    class Greedy(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) + F.linear(input.tanh(), self.weight)

    toy = Toy(NILIF(), torch.tensor([[1.0, 2.0]]), outputs=3)
    toy.up = Greedy(2, 3)  # type: ignore[assignment]
    with pytest.raises(SpikeformersError, match=r"up \(Greedy\) did 12 MACs where 6 are counted"):
        trace(toy, torch.tensor([[0]]))


def test_two_products_without_a_softmax_are_not_taken_for_attention() -> None:
    class Twice(Toy):
        def forward(self, input_ids: Tensor) -> Tensor:
            y = super().forward(input_ids).flatten(0, 1)
            return torch.bmm(torch.bmm(y, y.transpose(1, 2)), y)

    toy = Twice(NILIF(), torch.tensor([[1.0, 2.0]]), outputs=3)
    with pytest.raises(SpikeformersError, match=r"2 matrix products .*aten\.bmm \[1, 1, 3\]"):
        trace(toy, torch.tensor([[0]]))


def macs(trace: Trace) -> int:
    return sum(product.macs for product in trace.products.values())


def closed_form(tokens: int, pairs: int, extra_head: int = 0) -> int:
    d, hidden, layers, vocabulary = 16, 32, 2, 50
    linear = tokens * (4 * d * d + 2 * d * hidden)
    return layers * (linear + 2 * pairs * d) + tokens * (d * vocabulary + extra_head)


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_macs_of_causal_twins_are_the_closed_formula(
    dense: Make, ids: Tensor, positions: str
) -> None:
    counted = trace(dense("wd", positions), ids)
    assert macs(counted) == closed_form(tokens=14, pairs=2 * 7 * 8 // 2)
    assert all(product.sop == 0 for product in counted.products.values())


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_macs_of_masked_twins_are_the_closed_formula(
    dense: Make, ids: Tensor, positions: str
) -> None:
    assert macs(trace(dense("we", positions), ids)) == closed_form(14, 2 * 49, extra_head=16 * 16)


def test_spiking_models_replace_as_many_macs(spiking: Make, ids: Tensor) -> None:
    assert macs(trace(spiking("wd"), ids)) == closed_form(tokens=14, pairs=56)
    assert macs(trace(spiking("wd", steps=3, neuron="lif"), ids)) == (
        3 * (closed_form(14, 56) - 14 * 16 * 50) + 14 * 16 * 50  # the head reads the mean
    )
    assert macs(trace(spiking("we"), ids)) == closed_form(tokens=14, pairs=98)


def test_eager_attention_counts_as_the_fused_one(dense: Make, ids: Tensor) -> None:
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    for kind in ("wd", "we"):
        model = dense(kind)
        batch = {"input_ids": ids, "attention_mask": mask}
        fused = trace(model, batch)
        model.set_attn_implementation("eager")
        written_out = trace(model, batch)
        assert written_out.products == fused.products
        assert written_out.operations == fused.operations


@pytest.mark.parametrize("kind", ["wd", "we"])
@pytest.mark.parametrize("position", ["relative", "learned"])
def test_padding_is_not_counted(spiking: Make, ids: Tensor, kind: str, position: str) -> None:
    model = spiking(kind, position=position)
    plain = trace(model, ids)
    pads = torch.zeros(2, 3, dtype=torch.long)
    mask = torch.cat([pads, torch.ones_like(ids)], 1)
    padded = trace(model, {"input_ids": torch.cat([pads, ids], 1), "attention_mask": mask})
    assert padded.tokens == plain.tokens
    assert padded.products == plain.products
    assert padded.neurons == plain.neurons


def test_tracing_changes_nothing(spiking: Make, ids: Tensor) -> None:
    model = spiking("wd").train()
    before = model(ids).logits
    trace(model, ids)
    assert model.training
    assert torch.equal(model(ids).logits, before)
    assert not any(module._forward_hooks for module in model.modules())


def test_elementwise_operations_of_a_spiking_block(spiking: Make, ids: Tensor) -> None:
    model = spiking("wd", position="learned", output_norm=True, projection_norm=True)
    operations = trace(model, ids).operations
    tokens, d, hidden = 14, 16, 32
    assert operations["residual", 0] == {"add": 2 * tokens * d}
    assert operations["embedding", None] == {"add": tokens * d, "lookup": 2 * tokens * d}
    fired = 5 * d + hidden  # input, q, k, v, MLP input; MLP hidden
    assert operations["neurons", 1] == {"compare": 4 * tokens * fired}
    normed = fired + 2 * d  # and after either sublayer
    assert operations["norms", 1]["mult"] == 3 * tokens * normed
    rows = range(1, 8)  # row i has i keys, hence i - 1 comparisons; two heads, two sentences
    assert operations["attention scores and values", 0] == {
        "winner_compare": 2 * 2 * sum(n - 1 for n in rows)
    }


def test_elementwise_operations_of_gpt2(dense: Make, ids: Tensor) -> None:
    operations = trace(dense("wd"), ids).operations
    tokens, d, hidden, pairs = 14, 16, 32, 2 * 56
    assert operations["residual", 0] == {"add": 2 * tokens * d}
    assert operations["attention scores and values", 1] == {
        "mult": pairs, "compare": pairs, "function": 2 * pairs, "add": pairs,
    }  # fmt: skip
    # gelu_new: x^3 (2), * 0.044715, * sqrt(2/pi), * 0.5, * x; two additions; one tanh
    n = tokens * hidden
    assert operations["activations", 0] == {"mult": 6 * n, "add": 2 * n, "function": n}


def test_neurons_inside_an_attention_core_are_counted_once(binary: Any, ids: Tensor) -> None:
    counted = trace(binary, ids)
    edges = counted.neurons["model.layers.0.attention.core.neuron"]
    assert (edges.kind, edges.size) == ("binary", 4 * 2 * 2 * 28)  # S B H, T (T + 1) / 2 pairs
    # Layer 0: q, k, v, out, MLP in and out of 16 each, MLP hidden of 32; four steps of 14 tokens.
    units = 14 * (6 * 16 + 32) + 2 * 2 * 28
    assert counted.operations["neurons", 0] == {
        "compare": 4 * units, "add": 2 * 3 * units, "mult": 3 * units
    }  # fmt: skip
    assert counted.products["model.layers.0.attention.core.values"].left.total == edges.total
    steps, layers, pairs = 4, 2, 56
    linear = 14 * (4 * 16 * 16 + 2 * 16 * 32)
    assert macs(counted) == steps * layers * (linear + 2 * pairs * 16) + 14 * 16 * 50


def test_attention_in_blocks_counts_as_attention_in_one_piece(
    spiking: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training step's blocks leave out keys that no query sees; the count is the same."""
    from spikeformers.attention import _blocks

    model = spiking("wd", max_position_embeddings=80)
    tokens = torch.arange(70).remainder(50).repeat(2, 1)
    complete = trace(model, tokens)
    monkeypatch.setattr(_blocks, "ONE_BLOCK_SCORES", 0)
    blocks = trace(model, tokens)
    assert complete.products == blocks.products
    assert complete.operations == blocks.operations
    assert "model.layers.0.attention.core.values" in complete.products
