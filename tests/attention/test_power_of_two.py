"""Winners graded by powers of two."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from spikeformers.attention import WTA, PowerOfTwoAttention, SoftmaxAttention
from spikeformers.attention.power_of_two import FURTHEST, graded
from spikeformers.errors import ConfigError

NEVER = float("-inf")
OCTAVE = math.log(2)


def operands(seed: int, tokens: int = 9, width: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q, k and v of two heads, and a causal mask."""
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(1, 2, 2, tokens, width, generator=generator) for _ in range(3))
    return q, k, v, torch.ones(1, 1, tokens, tokens, dtype=torch.bool).tril()


@pytest.mark.parametrize(
    ("octaves_below", "weights"),
    [
        ([0], [1]),
        ([0, NEVER], [1, 0]),
        ([0, 0], [0.5, 0.5]),  # the sum is 2: one octave
        ([0, 2], [1, 0.25]),  # 1.25: a quarter of an octave, as its digits have it
        ([0, 1.4, 1.4, 1.4], [0.5, 0.125, 0.125, 0.125]),  # 2.5 and 1.25 octaves; 2.65
        ([1, 2.6, 1], [0.5, 0.125, 0.5]),  # counted from the winner: 2.25, 1.125 octaves
        ([0, 0, 0, 0, 0], [0.25] * 5),  # 5: 2.25 octaves
        ([0] * 7, [0.125] * 7),  # 7: 2.75
        ([0, FURTHEST, FURTHEST + 0.1], [1, 2.0**-FURTHEST, 0]),
        ([NEVER, NEVER], [0, 0]),
    ],
)
def test_weights_of_one_digit_by_hand(octaves_below: list[float], weights: list[float]) -> None:
    scores = torch.tensor([x if x == NEVER else -OCTAVE * x for x in octaves_below])
    assert graded(scores, 1).tolist() == weights


@pytest.mark.parametrize(
    ("digits", "octaves_below", "weights"),
    [
        (2, [0], [1]),
        (2, [0, 0.6], [0.5, 0.375]),  # 1 and 3/4, 0.75 octaves together: 0.75 to 1, 1.35 to 1.5
        (2, [0, 0.2], [0.5, 0.5]),  # a fifth of an octave is rounded away; the sum is 2
        (2, [0, 1, 1, 1], [0.5, 0.25, 0.25, 0.25]),  # 2.5: 1.25 and 2.25 octaves, to even
        (3, [0, 1, 1, 1], [7 / 16, 7 / 32, 7 / 32, 7 / 32]),  # the same, in quarters
        (4, [0] * 3, [0.375] * 3),  # 3: 1.5 octaves
        (2, [0] * 6, [0.1875] * 6),  # 6: 2.5
        (2, [0, FURTHEST, FURTHEST + 0.1], [1, 2.0**-FURTHEST, 0]),
        (3, [NEVER, NEVER], [0, 0]),
    ],
)
def test_weights_of_more_digits_by_hand(
    digits: int, octaves_below: list[float], weights: list[float]
) -> None:
    scores = torch.tensor([x if x == NEVER else -OCTAVE * x for x in octaves_below])
    assert graded(scores, digits).tolist() == weights


@given(
    seed=st.integers(0, 2**31 - 1),
    size=st.sampled_from([0.01, 1.0, 30.0]),
    digits=st.integers(1, 4),
)
def test_weights_have_few_digits_and_sum_to_about_one(seed: int, size: float, digits: int) -> None:
    scores = torch.randn(20, 50, generator=torch.Generator().manual_seed(seed)) * size
    weights = graded(scores, digits)
    mantissa, _ = torch.frexp(weights)
    assert (mantissa * 2**digits == (mantissa * 2**digits).round()).all()
    assert ((weights.sum(-1) >= 0.7) & (weights.sum(-1) <= 1.5)).all()
    best = scores.argmax(-1, keepdim=True)
    assert (weights.gather(-1, best) == weights.amax(-1, keepdim=True)).all()
    if size >= 1:  # where adding 8 is exact enough
        assert torch.equal(graded(scores + 8, digits), weights)


def test_sums_of_counts_are_exact_in_any_order() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = graded(torch.randn(64, 200, generator=generator), 2)
    counts = torch.randint(-64, 65, (200, 16), generator=generator) * 0.25
    order = torch.randperm(200, generator=generator)
    assert torch.equal(weights @ counts, weights[:, order] @ counts[order])
    assert torch.equal(weights @ counts, (weights.double() @ counts.double()).float())


def test_a_large_scale_leaves_winners_and_a_small_one_a_mean() -> None:
    q, k, v, allowed = operands(0)
    torch.testing.assert_close(
        PowerOfTwoAttention(1e4)(q, k, v, allowed), WTA(1e4)(q, k, v, allowed)
    )
    weights = PowerOfTwoAttention(1e-4, digits=1).weights(q, k, allowed, None)
    for query, place in {0: 0, 1: 1, 2: 2, 3: 2, 4: 2, 6: 3, 7: 3}.items():  # 6 keys are a tie
        assert (weights[..., query, : query + 1] == 2.0**-place).all()


def test_the_gradient_is_softmax_s() -> None:
    ours, theirs = operands(1), operands(1)
    for q, k, *_ in (ours, theirs):
        q.requires_grad_()
        k.requires_grad_()
    bias = torch.randn(2, 9, 9, generator=torch.Generator().manual_seed(2))
    for core, (q, k, v, allowed) in (
        (PowerOfTwoAttention(0.5), ours),
        (SoftmaxAttention(0.5), theirs),
    ):
        core(q, k, v, allowed, bias).backward(torch.ones_like(q))
    for mine, other in zip(ours[:2], theirs[:2], strict=True):
        torch.testing.assert_close(mine.grad, other.grad)
        assert mine.grad is not None
        assert mine.grad.any()


def test_training_and_evaluation_have_the_same_output() -> None:
    q, k, v, allowed = operands(5)
    core = PowerOfTwoAttention(0.5)
    weights = core.weights(q, k, allowed, None).detach()
    trained = core(q.requires_grad_(), k, v, allowed)
    torch.testing.assert_close(trained, weights @ v, rtol=0, atol=1e-6)
    with torch.no_grad():
        assert torch.equal(core(q, k, v, allowed), trained)


def test_a_query_without_keys_gets_zeros_and_finite_gradients() -> None:
    q, k, v, allowed = operands(3)
    allowed[..., 0] = False
    q.requires_grad_()
    y = PowerOfTwoAttention(0.5)(q, k, v, allowed)
    assert not y[..., 0, :].any()
    torch.testing.assert_close(y[..., 1, :], v[..., 1, :])
    y.square().sum().backward()
    assert q.grad is not None
    assert q.grad.isfinite().all()
    assert not q.grad[..., 0, :].any()


def test_half_precision_has_the_winners_of_float32() -> None:
    q, k, v, allowed = operands(4)
    expected = PowerOfTwoAttention(2.0).weights(q, k, allowed, None)
    with torch.autocast("cpu", torch.bfloat16):
        core = PowerOfTwoAttention(2.0)
        assert torch.equal(core.weights(q, k, allowed, None), expected)
        assert core(q, k, v.bfloat16(), allowed).dtype == torch.bfloat16


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="surrogate_temperature must be positive, not 0"):
        PowerOfTwoAttention(1.0, temperature=0)
    for digits in (0, 5):
        with pytest.raises(ConfigError, match=f"weight_digits must be 1 to 4, not {digits}"):
            PowerOfTwoAttention(1.0, digits=digits)


def test_what_it_says_of_itself() -> None:
    core = PowerOfTwoAttention(0.5, heads=2)
    assert core.engine_rule() == {"rule": "powers", "digits": 2}
    assert core.points("integer", "0, 1", fired=True)[1:] == [
        ("attention weights", "real", "0 and numbers of 2 binary digits"),
        ("weights times value", "real", "a sum of values"),
    ]
    one = PowerOfTwoAttention(0.5, digits=1)
    assert one.points("integer", "0, 1", fired=True)[1][2] == "0 and powers of two"
    assert "digits=2, temperature=1.0, scale=0.5" in repr(core)
