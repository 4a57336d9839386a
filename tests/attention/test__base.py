"""What all attention cores share."""

from __future__ import annotations

import math

import pytest
import torch

from spikeformers.attention import (
    A2OS2A,
    SFSA,
    SSA,
    WTA,
    Attention,
    PowerOfTwoAttention,
    ScaledAttention,
    SoftmaxAttention,
)
from spikeformers.attention._base import masked_softmax
from spikeformers.neurons import LIF


def test_scores_are_scaled_before_the_bias() -> None:
    q = torch.tensor([[1.0, 2.0]])
    k = torch.tensor([[3.0, 1.0], [0.0, 2.0]])
    core = ScaledAttention(0.5)
    assert core.scores(q, k, None).tolist() == [[[2.5, 2.0]]]
    assert core.scores(q, k, torch.tensor([[1.0, -1.0]])).tolist() == [[[3.5, 1.0]]]
    assert not core.log_scale.requires_grad


def test_each_head_has_a_scale() -> None:
    core = ScaledAttention(0.25, heads=2, learn_scale=True)
    assert core.log_scale.requires_grad
    torch.testing.assert_close(core.scale(), torch.full((2, 1, 1), 0.25))
    with torch.no_grad():
        core.log_scale[1] += math.log(4)
    q = torch.ones(1, 1, 2, 1, 3)
    torch.testing.assert_close(core.scores(q, q, None).flatten(), torch.tensor([0.75, 3.0]))


def test_masked_softmax_by_hand() -> None:
    scores = torch.zeros(3, 3)
    allowed = torch.tensor([[True, True, False], [False, True, False], [False] * 3])
    assert masked_softmax(scores, allowed).tolist() == [[0.5, 0.5, 0], [0, 1, 0], [0, 0, 0]]


def test_the_base_has_no_weights() -> None:
    q = torch.ones(1, 1, 1, 1, 1)
    with pytest.raises(TypeError, match=r"Attention does not define weights\(\)"):
        Attention()(q, q, q, torch.ones(1, 1, 1, 1, dtype=torch.bool))


def causal(tokens: int) -> torch.Tensor:
    return torch.ones(1, 1, 1, tokens, tokens, dtype=torch.bool).tril()


@pytest.mark.parametrize(
    ("core", "operations"),
    [
        (SoftmaxAttention(1.0), {"mult": 6, "compare": 6, "function": 12, "add": 6}),
        (
            PowerOfTwoAttention(1.0),
            {"winner_compare": 0 + 1 + 2, "mult": 6, "compare": 6, "add": 6},
        ),
        (WTA(1.0), {"winner_compare": 0 + 1 + 2}),
        (WTA(1.0, "top_k", 2), {"winner_compare": 0 + 1 + (2 + 1)}),
        # A sort of n keys is n log2(n) comparisons, rounded up: 0, 2 and 3 * 2.
        (WTA(1.0, "sparsemax"), {"mult": 6, "add": 18, "winner_compare": 8}),
        (SSA(1.0), {}),
        (A2OS2A(), {}),
        (SFSA(LIF()), {}),
    ],
)
def test_operations_between_the_products_by_hand(
    core: Attention, operations: dict[str, int]
) -> None:
    assert core.operations(causal(3)) == operations


def test_facts_that_cores_state() -> None:
    cores = [
        WTA(1.0), WTA(1.0, "top_k", 3), WTA(1.0, "sparsemax"),
        SSA(1.0), A2OS2A(), A2OS2A("state"), SFSA(LIF()), SoftmaxAttention(1.0),
        PowerOfTwoAttention(1.0),
    ]  # fmt: skip
    assert [core.reads_per_query for core in cores] == [1, 3, *[None] * 7]
    assert [core.competition for core in cores] == ["hard", "top_k", "sparsemax", *[None] * 6]
    assert [core.weights_are_real for core in cores] == [
        *(False, False, True), *(False, False, False, False, True, True),
    ]  # fmt: skip
    assert [core.weights_are_fired for core in cores] == [*[False] * 6, True, False, False]
    assert [core.keeps_state for core in cores] == [*[False] * 5, True, False, False, False]
    assert [core.averages for core in cores] == [*[False] * 7, True, True]
    assert [core.options for core in cores] == [
        *[("wta", "winners", "winner_weight")] * 3, (), *[("attention_order",)] * 2,
        *[()] * 2, ("weight_digits",),
    ]  # fmt: skip
    assert [core.softmax_free for core in cores] == [*[True] * 7, False, True]


def test_points_of_a_core() -> None:
    hard, mean, a2os2a = WTA(1.0), WTA(1.0, "top_k", 2, winner_weight="mean"), A2OS2A("state")
    assert hard.points("integer", "0, 1, ... 4", fired=False) == [
        ("attention scores q k", "integer", "counts of coincidences, scaled"),
        ("attention weights", "binary", "0, 1; ones per row: 1"),
        ("attention output", "integer", "the winner's value: 0, 1, ... 4"),
    ]
    assert mean.points("binary", "0, 1", fired=True)[1:] == [
        ("attention weights", "real", "real numbers"),
        ("weights times value", "real", "a sum of values"),
    ]
    assert a2os2a.points("ternary", "-a, 0, a", fired=True) == [
        ("Q K^T V", "real", "sums of entries of K with signs; order state")
    ]
