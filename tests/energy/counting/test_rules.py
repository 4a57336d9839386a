"""Counts against hand-worked numbers, and against a loop over every pair."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from spikeformers.attention import SSA, WTA, SoftmaxAttention
from spikeformers.attention._base import Attention
from spikeformers.energy import Trace
from spikeformers.energy.counting import rules
from spikeformers.energy.counting.operands import Place, Rows, Spikes
from spikeformers.neurons import LIF, NILIF, TLIF, DeadZone

PLACE = Place("here", "attention scores and values", 0)
COUNTS = Spikes("integer", 1.0)
CAUSAL = torch.ones(2, 2, dtype=torch.bool).tril()
# Coincidences of the allowed pairs: (0,0) 1, (1,0) 2 + 1 = 3, (1,1) 3; of V: 3 events, 1 event.
Q = torch.tensor([[1.0, 0.0], [2.0, 1.0]])[None, None, None]
K = torch.tensor([[1.0, 1.0], [0.0, 3.0]])[None, None, None]
V = torch.tensor([[1.0, 2.0], [0.0, 1.0]])[None, None, None]


def attend(core: Attention, q: Tensor = Q, k: Tensor = K, v: Tensor = V) -> Trace:
    trace, rows = Trace(), Rows(q.shape[1], q.shape[-2], None)
    allowed = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()
    weights = core.weights(q, k, allowed, None)
    pairs = rules.attention(trace, PLACE, rows, (q, k, v), (COUNTS,) * 3, allowed, weights, core)
    rules.core(trace, PLACE, core, pairs, bias=False)
    return trace


@torch.no_grad()
@pytest.mark.parametrize(
    ("core", "gathered", "kind", "operations"),
    [
        # Row 1 ties at 3: the lowest index wins, so V's row 0 is read twice.
        (WTA(1.0), 6, "binary", {"winner_compare": 1}),
        (WTA(1.0, "top_k", 2), 7, "binary", {"winner_compare": 1}),
        (WTA(1.0, "top_k", 2, winner_weight="mean"), 7, "binary", {"winner_compare": 1}),
        (WTA(1.0, "sparsemax"), 7, "real", {"mult": 3, "add": 9, "winner_compare": 2}),
        (SSA(1.0), 7, "integer", {}),
        (SoftmaxAttention(1.0), 7, "real",
         {"mult": 3, "compare": 3, "function": 6, "add": 3}),
    ],
)  # fmt: skip
def test_attention_by_hand(
    core: Attention, gathered: int, kind: str, operations: dict[str, int]
) -> None:
    trace = attend(core)
    scores, values = trace.products["here.scores"], trace.products["here.values"]
    assert (scores.macs, scores.sop) == (3 * 2, 1 + 3 + 3)
    assert (values.macs, values.sop) == (3 * 2, gathered)
    assert (scores.left.total, scores.right.total, values.right.total) == (4, 5, 4)
    assert values.left.kind == kind
    assert dict(trace.operations.get((PLACE.component, 0), {})) == operations


@torch.no_grad()
def test_ssa_reads_nothing_where_no_spikes_coincide() -> None:
    silent = K.clone()
    silent[..., 1, :] = 0
    assert attend(SSA(1.0), k=silent).products["here.values"].sop == 3 + 3


@torch.no_grad()
def test_only_allowed_pairs_and_real_tokens_count() -> None:
    trace = Trace()
    rows = Rows(1, 2, torch.tensor([[0, 1]]))  # the first token is padding
    allowed = CAUSAL & torch.tensor([False, True])
    rules.attention(trace, PLACE, rows, (Q, K, V), (COUNTS,) * 3, allowed, None)
    scores = trace.products["here.scores"]
    assert (scores.macs, scores.sop) == (2, 3)
    assert (scores.left.size, scores.left.total) == (2, 3)


@torch.no_grad()
def test_grouped_queries_share_their_keys() -> None:
    q = torch.cat([Q, Q], dim=2)  # two query heads, one key head
    trace = Trace()
    rules.attention(trace, PLACE, Rows(1, 2, None), (q, K, V), (COUNTS,) * 3, CAUSAL, None)
    assert trace.products["here.scores"].sop == 2 * 7
    assert trace.products["here.values"].sop == 2 * 7


@torch.no_grad()
def test_dense_attention_is_macs_over_allowed_pairs() -> None:
    q, k, v = torch.randn(3, 1, 1, 2, 5, 4, generator=torch.Generator().manual_seed(0)).unbind(0)
    allowed = torch.ones(5, 5, dtype=torch.bool).tril()
    trace = Trace()
    rules.attention(trace, PLACE, Rows(1, 5, None), (q, k, v), (None,) * 3, allowed, None)
    for product in trace.products.values():
        assert (product.macs, product.sop, product.spiking) == (2 * 15 * 4, 0, False)


@given(st.integers(0, 10_000))
@torch.no_grad()
def test_attention_agrees_with_a_loop_over_every_event(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    q, k, v = torch.randint(0, 4, (3, 2, 2, 2, 4, 3), generator=draw).float().unbind(0)
    cores: list[Attention] = [WTA(0.5), WTA(0.5, "top_k", 2), SSA(0.5), SoftmaxAttention(0.5)]
    for core in cores:
        trace = attend(core, q, k, v)
        allowed = torch.ones(4, 4, dtype=torch.bool).tril()
        weights = core.weights(q, k, allowed, None)
        coincidences = gathered = 0
        for s, b, h in itertools.product(range(2), repeat=3):
            for i in range(4):
                for j in range(i + 1):
                    for c in range(3):
                        coincidences += int(q[s, b, h, i, c] * k[s, b, h, j, c])
                        gathered += int(v[s, b, h, j, c]) * int(weights[s, b, h, i, j] != 0)
        assert trace.products["here.scores"].sop == coincidences
        assert trace.products["here.values"].sop == gathered


def test_a_linear_layer_by_hand() -> None:
    x = torch.tensor([[0.0, 0.25, 0.5, 0.75], [0.0, 0.0, 0.0, 0.25]])[None]
    weight = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    trace = Trace()
    place = Place("up", "mlp", 0)
    done = rules.linear(trace, place, Rows(1, 2, None), x, Spikes("integer", 0.25), weight)
    product = trace.products["up"]
    assert done == product.macs == 2 * 4 * 3
    assert (product.left.nonzero, product.left.total) == (4, 7)
    assert product.sop == 7 * 3  # a count of c is c accumulates in each of the three outputs
    assert (product.left.kind, product.right.kind, product.density) == ("integer", "real", 0.5)


def test_a_linear_layer_leaves_padding_out() -> None:
    x = torch.tensor([[1.0, 1.0], [0.0, 1.0]])[None]
    weight = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    trace = Trace()
    rows = Rows(1, 2, torch.tensor([[0, 1]]))
    done = rules.linear(trace, Place("up", "mlp", 0), rows, x, None, weight)
    product = trace.products["up"]
    assert (done, product.macs, product.sop) == (2 * 2 * 3, 2 * 3, 3)


def test_a_silent_layer_costs_nothing() -> None:
    trace = Trace()
    weight = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    silent = torch.zeros(1, 2, 4)
    rules.linear(trace, Place("a", "mlp", 0), Rows(1, 2, None), silent, COUNTS, weight)
    assert trace.products["a"].spiking
    assert trace.products["a"].sop == 0


@pytest.mark.parametrize(
    ("neuron", "steps", "expected"),
    [
        (NILIF(levels=4), 1, {"compare": 4 * 6}),
        (NILIF(levels=4), 3, {"compare": 4 * 18, "add": 2 * 12, "mult": 12}),
        (LIF(), 2, {"compare": 12, "add": 2 * 6, "mult": 6}),
        (TLIF(), 1, {"compare": 2 * 6}),
    ],
)
def test_neurons(neuron: Any, steps: int, expected: dict[str, int]) -> None:
    current = torch.ones(steps, 1, 2, 3)
    trace = Trace()
    place = Place("n", "neurons", 1)
    with torch.no_grad():
        kind = rules.neuron(trace, place, Rows(1, 2, None), neuron, current, neuron(current))
    assert dict(trace.operations["neurons", 1]) == expected
    assert kind == Spikes(neuron.spike_type, neuron.unit)
    assert trace.neurons["n"].size == steps * 6


def test_norms() -> None:
    trace = Trace()
    rows = Rows(1, 2, None)
    rules.norm(trace, Place("n", "norms", 0), rows, torch.ones(1, 2, 5), "layer")
    assert trace.operations["norms", 0] == {"add": 40, "mult": 30, "function": 2}
    rules.norm(trace, Place("m", "norms", 1), rows, torch.ones(1, 2, 5), "rms")
    assert trace.operations["norms", 1] == {"add": 10, "mult": 30, "function": 2}
    assert rules.norm_kind(nn.LayerNorm(3)) == "layer"
    assert rules.norm_kind(nn.RMSNorm(3)) == "rms"
    assert rules.norm_kind(nn.Identity()) is None


def test_rows_keep_everything_but_padding() -> None:
    rows = Rows(2, 2, torch.tensor([[0, 1], [1, 1]]))
    x = torch.arange(4.0).view(1, 2, 2, 1)
    assert (rows.tokens, rows.share) == (3, 0.75)
    assert rows.select(x).flatten().tolist() == [1, 2, 3]
    assert rows.select(x.view(4, 1)).flatten().tolist() == [1, 2, 3]
    heads = x.view(1, 2, 1, 2, 1)  # [S, B, H, T, K]
    assert rows.select_heads(heads).flatten().tolist() == [1, 2, 3]


SIGNED = torch.tensor([[7.0, 0.0], [-40.0, 3.0]])[None, None, None]  # digits 3, 0; 2, 2


def test_a_count_has_two_prices_and_a_negative_one_costs_the_same() -> None:
    trace = Trace()
    weight = torch.randn(2, 5)
    rules.linear(trace, PLACE, Rows(1, 2, None), SIGNED[0, 0], COUNTS, weight)
    product = trace.products["here"]
    assert (product.sop, product.digit_sop) == ((7 + 40 + 3) * 5, (3 + 2 + 2) * 5)
    assert (product.left.total, product.left.digits, product.left.nonzero) == (50, 7, 3)
    assert product.left.planes == 6 + 1  # 40 in six bits, and the sign
    assert product.left.as_dict()["mean_digits"] == 7 / 4


@torch.no_grad()
def test_attention_of_signed_counts_by_hand() -> None:
    """Rate: |q| |k| of allowed pairs, and of the V rows that win; digits: of their digits."""
    trace = attend(WTA(1.0), q=SIGNED, k=SIGNED, v=SIGNED)
    scores, values = trace.products["here.scores"], trace.products["here.values"]
    # (0,0): 7 * 7. (1,0): 40 * 7. (1,1): 40 * 40 + 3 * 3. In digits 3 * 3, 2 * 3, 2 * 2 + 2 * 2.
    assert scores.sop == 49 + 280 + 1609
    assert scores.digit_sop == 9 + 6 + 8
    # Row 0 takes V's row 0, row 1 its own: -40 * 7 loses to 40 * 40 + 9.
    assert (values.sop, values.digit_sop) == (7 + 43, 3 + 4)


def test_digits_are_not_counted_twice_where_a_neuron_counts_them_already() -> None:
    weighted = Spikes("integer", 1.0, weighted=True)
    trace = Trace()
    rules.linear(trace, PLACE, Rows(1, 2, None), SIGNED[0, 0], weighted, torch.ones(2, 5))
    assert trace.products["here"].sop == trace.products["here"].digit_sop == 7 * 5


def test_both_prices_add_up_over_runs() -> None:
    trace = Trace()
    for _ in range(2):
        rules.linear(trace, PLACE, Rows(1, 2, None), SIGNED[0, 0], COUNTS, torch.ones(2, 5))
    product = trace.products["here"]
    assert (product.sop, product.digit_sop, product.left.digits) == (500, 70, 14)


def test_signed_sub_steps_cost_what_their_counts_cost() -> None:
    neuron, trace = DeadZone(8, 0.25), Trace()
    current = torch.linspace(-3, 3, 24).view(1, 1, 4, 6)
    counted = neuron(current)
    kind = rules.neuron(trace, PLACE, Rows(1, 4, None), neuron, current, counted)
    assert (kind.kind, kind.unit) == ("integer", 0.25)
    neuron.expanded = True
    sub_steps = neuron(current)
    binary = rules.spikes_by(neuron)
    assert binary == Spikes("binary", 1.0)
    expected = int((counted.abs() / 0.25).sum())
    assert trace.neurons["here"].total == int(sub_steps.sum()) == expected > 0
    assert trace.operations["neurons", 0] == {"compare": 9 * 24, "add": 24, "mult": 24}
