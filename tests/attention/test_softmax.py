"""Softmax attention over spikes: the control."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from spikeformers.attention import SoftmaxAttention


def test_two_keys_by_hand() -> None:
    q = torch.tensor([2.0]).view(1, 1, 1, 1, 1)
    k = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2, 1)
    v = torch.tensor([4.0, 8.0]).view(1, 1, 1, 2, 1)
    allowed = torch.ones(1, 1, 1, 2, dtype=torch.bool)
    p = 1 / (1 + math.exp(-0.5 * 2))
    w = SoftmaxAttention(0.5).weights(q, k, allowed, None)
    assert w.flatten().tolist() == pytest.approx([1 - p, p])
    assert SoftmaxAttention(0.5)(q, k, v, allowed).item() == pytest.approx(4 * (1 - p) + 8 * p)


@given(seed=st.integers(0, 2**31 - 1))
def test_agrees_with_torch(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(2, 3, 2, 5, 4, generator=generator) for _ in range(3))
    bias = torch.randn(2, 5, 5, generator=generator)
    allowed = torch.ones(3, 1, 5, 5, dtype=torch.bool).tril()
    allowed[1, ..., 0] = False
    allowed[1, ..., 0, 0] = True
    mask = torch.where(allowed, bias, float("-inf"))
    expected = F.scaled_dot_product_attention(q, k, v, mask, scale=0.3)
    torch.testing.assert_close(SoftmaxAttention(0.3)(q, k, v, allowed, bias), expected)


def test_a_query_without_keys_gets_zeros_and_finite_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 1, 1, 3, 2, generator=generator).requires_grad_() for _ in range(3))
    allowed = torch.ones(1, 1, 3, 3, dtype=torch.bool).tril()
    allowed[..., 0] = False
    y = SoftmaxAttention(0.5)(q, k, v, allowed)
    assert y[0, 0, 0, 0].tolist() == [0, 0]
    torch.testing.assert_close(y[0, 0, 0, 1], v[0, 0, 0, 1])
    y.square().sum().backward()
    for x in (q, k, v):
        assert torch.isfinite(x.grad).all()
    assert q.grad[0, 0, 0, 0].tolist() == [0, 0]
    assert q.grad[0, 0, 0, 2].abs().sum() > 0
    assert k.grad[0, 0, 0, 2].abs().sum() > 0
