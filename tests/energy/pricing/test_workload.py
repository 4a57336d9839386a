"""What a token takes, worked out by hand on a toy: 2 spiking linear maps are all it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spikeformers.attention import A2OS2A, SSA, WTA
from spikeformers.energy import (
    FP16,
    FP32,
    INT8,
    Phase,
    Trace,
    Work,
    count_over,
    trace,
    work_of,
)
from spikeformers.energy.counting import rules
from spikeformers.energy.counting.operands import Place, Rows, Spikes
from spikeformers.energy.pricing.attention_workload import cache_bits
from spikeformers.energy.pricing.workload import Assumptions, phases_of, stored_bits, union
from spikeformers.layers import SpikeLinear
from spikeformers.neurons import LIF, NILIF, TLIF, Neuron

Make = Callable[..., Any]
DECODE = Phase("decode", 3, 1)
# Currents of 3 tokens: counts 0 1 2 4, then twice 0 0 0 2.
CURRENTS = torch.tensor([[0.0, 1.0, 2.0, 9.0], [0.4, 0.0, 0.0, 2.2]])
IDS = torch.tensor([[0, 1, 1]])


class Toy(nn.Module):
    """Embedding ``[V, D]`` -> neuron -> linear map."""

    def __init__(self, neuron: Neuron | None, currents: Tensor, steps: int = 1) -> None:
        super().__init__()
        self.embed = nn.Embedding.from_pretrained(currents)
        self.layers = nn.ModuleList([neuron] if neuron is not None else [])
        self.up = SpikeLinear(currents.shape[1], 5, bias=False)
        self.steps = steps

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids).expand(self.steps, -1, -1, -1)
        for neuron in self.layers:
            x = neuron(x)
        y: Tensor = self.up(x)
        return y


def toy(neuron: Neuron | None = None, currents: Tensor = CURRENTS, steps: int = 1) -> Trace:
    return trace(Toy(neuron, currents, steps), IDS % len(currents))


def amount(lines: list[Work], kind: str, of: str, name: str = "up") -> float:
    """Of one kind of line, for the three tokens."""
    return 3 * sum(x.amount for x in lines if (x.kind, x.of, x.name) == (kind, of, name))


def test_integer_counts() -> None:
    lines = work_of(toy(NILIF(levels=4)), FP32, DECODE)
    assert amount(lines, "add", "fp32") == pytest.approx(11 * 5)  # 1 + 2 + 4 + 2 + 2 counts
    assert amount(lines, "multiply", "fp32") == 0
    assert amount(lines, "read", "weights") == pytest.approx(5 * 5 * 32)  # 5 inputs are not zero
    # In: 12 values of 3 bits (0 to 4), written and read; out: 15 values of 32 bits.
    assert amount(lines, "read", "activations") == pytest.approx(12 * 3 + 15 * 32)
    assert amount(lines, "write", "activations") == pytest.approx(12 * 3 + 15 * 32)
    assert amount(lines, "read", "register") == 0


def test_a_count_as_one_multiplication() -> None:
    lines = work_of(
        toy(NILIF(levels=4)), INT8, DECODE, assumptions=Assumptions(counts="multiplication")
    )
    assert amount(lines, "multiply", "int8") == pytest.approx(5 * 5)
    assert amount(lines, "add", "int32") == pytest.approx(5 * 5)


def test_int8_spikes_add_in_int32_and_scale_their_outputs() -> None:
    lines = work_of(toy(NILIF(levels=4)), INT8, DECODE)
    assert amount(lines, "add", "int32") == pytest.approx(11 * 5)
    assert amount(lines, "multiply", "fp32") == pytest.approx(15)
    assert amount(lines, "compare", "fp32") == 0
    assert amount(lines, "read", "weights") == pytest.approx(25 * 8)


def test_a_dense_map_reads_and_multiplies_everything() -> None:
    counted = toy()
    lines = work_of(counted, FP16, DECODE)
    assert amount(lines, "multiply", "fp16") == pytest.approx(3 * 20)
    assert amount(lines, "add", "fp32") == pytest.approx(3 * 20)
    assert amount(lines, "read", "weights") == pytest.approx(3 * 20 * 16)
    quantised = work_of(counted, INT8, DECODE)
    assert amount(quantised, "multiply", "int8") == pytest.approx(60)
    assert amount(quantised, "multiply", "fp32") == pytest.approx(12 + 15)
    assert amount(quantised, "compare", "fp32") == pytest.approx(12)
    # In int8, out fp16.
    assert amount(quantised, "read", "activations") == pytest.approx(12 * 8 + 15 * 16)


def test_a_tile_reads_what_any_of_its_tokens_needs() -> None:
    counted = toy(NILIF(levels=4))
    up = counted.products["up"].weights
    assert up is not None
    # Tiles of two: tokens 0 and 1 need inputs 1, 2, 3; the third token is in no whole tile.
    assert (up.touched, up.tiles) == ({1: 5, 2: 3}, {1: 3, 2: 1})
    lines = work_of(counted, FP32, Phase("pass", 2, 2))
    read = 3 / 4 * 20 / 2  # three of four inputs' weights, for two tokens
    assert amount(lines, "read", "weights") == pytest.approx(3 * read * 32)
    assert amount(lines, "read", "register") == pytest.approx((25 - 3 * read) * 32)
    dense = work_of(toy(), FP32, Phase("pass", 2, 2))
    assert amount(dense, "read", "weights") == pytest.approx(3 * 20 / 2 * 32)
    assert amount(dense, "read", "register") == pytest.approx(3 * 20 / 2 * 32)


def test_every_step_of_a_token_shares_its_weights_and_carries_its_membrane() -> None:
    # decay 1, threshold 1: current 0.55 fires at steps 2 and 4 of 5, current 1.2 at every one.
    counted = toy(LIF(decay=1.0), torch.tensor([[0.55, 1.2]]), steps=5)
    lines = work_of(counted, FP32, DECODE)
    assert amount(lines, "add", "fp32") == pytest.approx(3 * (2 + 5) * 5)
    assert amount(lines, "read", "weights") == pytest.approx(3 * 2 * 5 * 32)
    assert amount(lines, "read", "register") == pytest.approx(3 * (7 * 5 - 10) * 32)
    assert amount(lines, "read", "state", "layers.0") == pytest.approx(3 * 2 * 4 * 32)
    assert amount(lines, "write", "state", "layers.0") == pytest.approx(3 * 2 * 4 * 32)
    (size,) = {line.size for line in lines if line.of == "state"}
    assert size == 2 * 32  # the membranes of a layer
    assert amount(lines, "read", "activations") == pytest.approx(3 * 5 * (2 + 5 * 32))


def test_ternary_spikes_take_two_planes() -> None:
    counted = toy(TLIF(), torch.tensor([[2.0, -2.0, 0.0]]))
    lines = work_of(counted, FP32, DECODE)
    assert amount(lines, "add", "fp32") == pytest.approx(3 * 2 * 5)
    assert amount(lines, "read", "activations") == pytest.approx(3 * (3 * 2 + 5 * 32))


def test_without_spikes_only_fixed_costs_remain() -> None:
    silent = work_of(toy(NILIF(levels=4), -torch.ones(1, 4)), FP32, DECODE)
    assert amount(silent, "add", "fp32") == 0
    assert amount(silent, "read", "weights") == amount(silent, "read", "register") == 0
    left = {(line.kind, line.of) for line in silent if line.name == "up"}
    assert left == {("read", "activations"), ("write", "activations")}
    fired = work_of(toy(NILIF(levels=4)), FP32, DECODE, spikes=0.0)
    assert amount(fired, "add", "fp32") == amount(fired, "read", "weights") == 0
    # A comparison a level and value, whatever fires, and the embedding's row.
    assert amount(silent, "compare", "fp32", "neurons") == pytest.approx(4 * 12)
    assert amount(silent, "read", "weights", "embedding") == pytest.approx(12 * 32)


def test_events_scale_until_everything_fires() -> None:
    counted = toy(NILIF(levels=4))
    twice = work_of(counted, FP32, DECODE, spikes=2.0)
    assert amount(twice, "add", "fp32") == pytest.approx(2 * 55)
    assert amount(twice, "read", "weights") == pytest.approx(2 * 25 * 32)
    full = work_of(counted, FP32, DECODE, spikes=100.0)  # density 5 / 12
    assert amount(full, "add", "fp32") == pytest.approx(12 / 5 * 55)
    assert amount(full, "read", "weights") == pytest.approx(3 * 20 * 32)
    assert union(0.75, 2, 1.5) == pytest.approx(1 - (1 - 0.75) ** 2)  # p = 0.5, then 0.75


# --- attention ---------------------------------------------------------------------------------

PLACE = Place("here", "attention scores and values", 0)
COUNTS = Spikes("integer", 1.0)
Q = torch.tensor([[1.0, 0.0], [2.0, 1.0]])[None, None, None]
K = torch.tensor([[1.0, 1.0], [0.0, 3.0]])[None, None, None]
V = torch.tensor([[1.0, 2.0], [0.0, 1.0]])[None, None, None]
CAUSAL = torch.ones(2, 2, dtype=torch.bool).tril()


def attend(core: Any, q: Tensor = Q, stated: Any = (COUNTS,) * 3) -> Trace:
    result, rows = Trace(tokens=2, window=2), Rows(1, 2, None)
    weights = None if core is None else core.weights(q, K, CAUSAL, None)
    pairs = rules.attention(result, PLACE, rows, (q, K, V), stated, CAUSAL, weights, core)
    if core is not None:
        rules.core(result, PLACE, core, pairs, bias=False)
    return result


def of(lines: list[Work], kind: str, type_: str, name: str) -> float:
    return sum(x.amount for x in lines if (x.kind, x.of, x.name) == (kind, type_, f"here.{name}"))


@torch.no_grad()
def test_hard_attention_in_a_context() -> None:
    counted = attend(WTA(1.0))
    lines = work_of(counted, FP32, Phase("decode", 10, 1))
    # 7 coincidences over 3 pairs; 10 pairs per token. Both planes of q and k (2 bits), whole.
    assert of(lines, "add", "int32", "scores") == pytest.approx(7 / 3 * 10)
    assert of(lines, "logic", "bit", "scores") == pytest.approx(10 * 2 * 2 * 2)
    assert of(lines, "read", "cache", "scores") == pytest.approx(10 * 2 * 2)
    assert of(lines, "write", "cache", "scores") == pytest.approx(2 * 2)
    # One row of V, with 3 events: both queries of the run chose row 0.
    assert of(lines, "add", "int32", "values") == pytest.approx(3)
    assert of(lines, "read", "cache", "values") == pytest.approx(2 * 2)
    assert cache_bits(counted, FP32) == 2 * 2 + 2 * 2
    (held,) = {line.size for line in lines if line.of == "cache"}
    assert held == 10 * (4 + 4)
    compared = [x.amount for x in lines if x.kind == "compare"]
    assert compared == pytest.approx([1 / 3 * 10])


@torch.no_grad()
def test_top_k_and_prefill() -> None:
    counted = attend(WTA(1.0, "top_k", 2))
    # Of 10 queries the first reads one row of V, the others two: 1.9 of them.
    lines = work_of(counted, FP32, Phase("prefill", 10, 2))
    assert of(lines, "add", "int32", "scores") == pytest.approx(7 / 3 * 5.5)
    assert of(lines, "read", "cache", "scores") == pytest.approx(5.5 * 4 / 2)
    assert of(lines, "read", "cache", "values") == pytest.approx(1.9 * 2 * 2)
    assert of(lines, "add", "int32", "values") == pytest.approx(7 / 3 * 1.9)


@torch.no_grad()
def test_the_measured_window_gives_the_counts_themselves() -> None:
    for core in (WTA(1.0), WTA(1.0, "top_k", 2), SSA(1.0)):
        counted = attend(core)
        lines = work_of(counted, FP32, Phase("prefill", 2, 1))
        for role in ("scores", "values"):
            adds = of(lines, "add", "int32", role)
            assert 2 * adds == pytest.approx(counted.products[f"here.{role}"].sop)


@torch.no_grad()
def test_softmax_of_spikes_and_dense_attention() -> None:
    lines = work_of(attend(None), FP32, Phase("decode", 10, 1))
    assert of(lines, "add", "int32", "scores") == pytest.approx(7 / 3 * 10)
    assert of(lines, "add", "fp32", "values") == pytest.approx(7 / 3 * 10)  # real weights
    real = torch.tensor([[0.3, -1.1], [2.7, 0.5]])[None, None, None]
    result, rows = Trace(tokens=2, window=2), Rows(1, 2, None)
    rules.attention(result, PLACE, rows, (real,) * 3, (None,) * 3, CAUSAL, None)
    dense = work_of(result, INT8, Phase("decode", 10, 1))
    for role in ("scores", "values"):
        assert of(dense, "multiply", "fp16", role) == of(dense, "add", "fp32", role) == 20
        assert of(dense, "read", "cache", role) == 10 * 2 * 16
        assert of(dense, "write", "cache", role) == 2 * 16


@torch.no_grad()
def test_grouped_queries_share_their_keys() -> None:
    """Two query heads, one key head: twice the pairs, keys and values read once."""
    q = Q.repeat(1, 1, 2, 1, 1)
    counted = attend(WTA(1.0), q)
    scores = counted.products["here.scores"]
    assert (scores.macs, scores.sop) == (2 * 3 * 2, 2 * 7)
    lines = work_of(counted, FP32, Phase("decode", 10, 1))
    assert of(lines, "add", "int32", "scores") == pytest.approx(2 * 7 / 3 * 10)
    assert of(lines, "read", "cache", "scores") == pytest.approx(10 * 4)
    assert of(lines, "read", "cache", "values") == pytest.approx(2 * 4)  # a winner each
    assert of(lines, "write", "cache", "scores") == pytest.approx(4)
    (held,) = {line.size for line in lines if line.of == "cache"}
    assert held == 10 * 8
    softmax = work_of(attend(None, q), FP32, Phase("decode", 10, 1))
    assert of(softmax, "read", "cache", "values") == pytest.approx(10 * 4)


@torch.no_grad()
def test_a_state_is_read_and_written_once_a_token() -> None:
    counted = Trace(tokens=2, window=2)
    binary = Spikes("binary", 1.0)
    k = torch.tensor([[1.0, 1.0], [0.0, 1.0]])[None, None, None]
    rules.state_attention(counted, PLACE, Rows(1, 2, None), (k, k, k), (binary,) * 3)
    lines = work_of(counted, FP32, Phase("decode", 1000, 1))
    assert 2 * of(lines, "add", "int32", "state") == 2 * 2 + 1 * 1
    assert 2 * of(lines, "add", "int32", "read") == 3 * 2
    assert of(lines, "read", "cache", "state") == of(lines, "write", "cache", "state") == 4 * 32
    assert isinstance(A2OS2A("state"), A2OS2A)


# --- whole models ------------------------------------------------------------------------------


def test_a_tied_head_is_stored_once_and_read_for_one_token_of_a_prompt(
    dense: Make, ids: Tensor
) -> None:
    model = dense("wd")
    assert model.config.tie_word_embeddings
    counted = trace(model, ids)
    assert counted.parameters == sum({id(p): p.numel() for p in model.parameters()}.values())
    maps = [m for m in model.modules() if hasattr(m, "weight") and m.weight.dim() == 2]
    matrices = {id(m.weight): m.weight.numel() for m in maps}
    assert counted.other_parameters == counted.parameters - sum(matrices.values())
    assert stored_bits(counted, FP32) == 32 * counted.parameters
    head = [x for x in work_of(counted, FP32, Phase("prefill", 7, 4)) if x.component == "head"]
    read = sum(x.amount for x in head if (x.kind, x.of) == ("read", "weights"))
    assert read == pytest.approx(50 * 16 * 32 / 7)
    each = [x for x in work_of(counted, FP32, Phase("decode", 7, 1)) if x.component == "head"]
    assert sum(x.amount for x in each if x.of == "weights") == pytest.approx(50 * 16 * 32)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_copies_of_shared_keys_are_not_cached(implementation: str) -> None:
    """Llama: 4 query heads on 2 key heads of width 4, two layers, 7 tokens."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    model.set_attn_implementation(implementation)
    counted = trace(model, torch.arange(14).reshape(2, 7))
    for name, product in counted.products.items():
        if name.endswith((".scores", ".values")):
            assert product.macs == 2 * 28 * 16  # sentences, pairs, width of all query heads
            assert product.right.size == 14 * 8
    assert cache_bits(counted, FP32) == 2 * 2 * 8 * 16
    lines = work_of(counted, FP32, Phase("decode", 10, 1))
    read = sum(x.amount for x in lines if (x.kind, x.of) == ("read", "cache"))
    assert read == pytest.approx(2 * 2 * 10 * 8 * 16)


def test_embeddings_are_one_row_a_token(spiking: Make, ids: Tensor) -> None:
    lines = work_of(trace(spiking("wd"), ids), INT8, Phase("decode", 7, 1))
    rows = [x for x in lines if x.component == "embedding" and x.of == "weights"]
    assert sum(x.amount for x in rows) == pytest.approx(16 * 8)


@pytest.mark.parametrize("overrides", [{}, {"neuron": "lif", "steps": 2}, {"attention": "ssa"}])
def test_additions_of_the_window_are_the_synaptic_operations(
    spiking: Make, ids: Tensor, overrides: dict[str, Any]
) -> None:
    """At the window's own length the full estimate counts what the papers' sum counts."""
    result = trace(spiking("wd", **overrides), ids)
    lines = work_of(result, FP32, Phase("prefill", 7, 1))
    for name, product in result.products.items():
        if product.component != "head":
            adds = sum(x.amount for x in lines if x.name == name and x.kind == "add")
            assert 14 * adds == pytest.approx(product.sop)
    norms = sum(x.amount for x in lines if x.component == "norms" and x.kind == "multiply")
    counted = sum(n["mult"] for (part, _), n in result.operations.items() if part == "norms")
    assert 14 * norms == pytest.approx(counted)


def test_phases(spiking: Make, ids: Tensor) -> None:
    counted = count_over(spiking("wd"), [ids])
    assert [(p.name, p.context, p.tile) for p in phases_of(counted, True, [2, 100], 64)] == [
        ("decode", 2, 1), ("decode", 100, 1), ("prefill", 2, 2), ("prefill", 100, 4),
    ]  # fmt: skip
    assert [p.name for p in phases_of(counted, False, [2], 64)] == ["pass"]
