"""A2OS2A: both orders by hand and against each other, a running state, gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from spikeformers.attention import A2OS2A
from spikeformers.attention.a2os2a import BLOCK
from spikeformers.errors import ConfigError

Q = torch.tensor([[1.0, 0.0], [1.0, 1.0]]).view(1, 1, 1, 2, 2)
K = torch.tensor([[0.5, 2.0], [0.0, 1.25]]).view(1, 1, 1, 2, 2)
V = torch.tensor([[1.0, -1.0], [0.0, 1.0]]).view(1, 1, 1, 2, 2)
ALL = torch.ones(1, 1, 2, 2, dtype=torch.bool)
F64 = torch.float64


def spikes(tokens: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Binary q, rectified k, ternary v: 2 steps, 3 sequences, 2 heads of width 4."""
    draw = torch.Generator().manual_seed(seed)
    shape = (2, 3, 2, tokens, 4)
    q, k, v = (torch.randn(shape, generator=draw, dtype=F64) for _ in range(3))
    return (q > 0.5).double(), k.relu(), v.sign() * (v.abs() > 0.5)


def causal(tokens: int) -> Tensor:
    return torch.ones(1, 1, tokens, tokens, dtype=torch.bool).tril()


@pytest.mark.parametrize("order", ["scores", "state"])
def test_two_tokens_by_hand(order) -> None:
    # Q K^T = [[0.5, 0], [2.5, 1.25]]; times V: [[0.5, -0.5], [2.5, -1.25]]
    both = A2OS2A(order, causal=False)
    assert both(Q, K, V, ALL).view(2, 2).tolist() == [[0.5, -0.5], [2.5, -1.25]]
    # With K swapped Q K^T = [[0, 0.5], [1.25, 2.5]]; causal drops the 0.5 of row 0.
    swapped = K.flip(-2)
    assert both(Q, swapped, V, ALL).view(2, 2).tolist() == [[0, 0.5], [1.25, 1.25]]
    assert A2OS2A(order)(Q, swapped, V, ALL.tril()).view(2, 2).tolist() == [[0, 0], [1.25, 1.25]]


def test_no_scale_and_no_parameters() -> None:
    core = A2OS2A()
    assert list(core.parameters()) == []
    assert core.weights(Q, K, ALL, None).view(2, 2).tolist() == [[0.5, 0], [2.5, 1.25]]


@pytest.mark.parametrize("tokens", [1, 5, BLOCK, BLOCK + 1, 2 * BLOCK + 7])
def test_the_orders_are_equal(tokens: int) -> None:
    q, k, v = spikes(tokens)
    padding = torch.ones(3, 1, 1, tokens, dtype=torch.bool)
    padding[1, ..., : tokens // 2] = False
    for mask, is_causal in ((causal(tokens), True), (torch.ones_like(causal(tokens)), False)):
        allowed = mask & padding
        scores = A2OS2A("scores", is_causal)(q, k, v, allowed)
        state = A2OS2A("state", is_causal)(q, k, v, allowed)
        real = padding.transpose(-1, -2).expand(3, 2, tokens, 4)  # rows that are not padding
        torch.testing.assert_close(state[:, real], scores[:, real], rtol=0, atol=1e-10)


def test_a_stream_in_pieces_equals_one_pass() -> None:
    tokens = BLOCK + 9
    q, k, v = spikes(tokens, seed=1)
    core = A2OS2A("state")
    complete = core(q, k, v, causal(tokens))
    state, rows = None, []
    for start, stop in [(0, 4), (4, 5), (5, 6), (6, tokens)]:
        piece = (x[..., start:stop, :] for x in (q, k, v))
        y, state = core.stream(*piece, causal(stop - start), state)
        rows.append(y)
        assert state.shape == (2, 3, 2, 4, 4)  # however long the past
    torch.testing.assert_close(torch.cat(rows, -2), complete, rtol=0, atol=1e-10)
    torch.testing.assert_close(state, k.transpose(-1, -2) @ v, rtol=0, atol=1e-10)


@pytest.mark.parametrize("order", ["scores", "state"])
def test_gradients_by_hand(order) -> None:
    q, k, v = (x.clone().requires_grad_() for x in (Q, K, V))
    weight = torch.tensor([1.0, 2.0])  # L = sum_ij M_ij (q_i.k_j) (v_j.w), with v.w = (-1, 2)
    (A2OS2A(order)(q, k, v, ALL.tril()) @ weight).sum().backward()
    # dL/dq_i = sum_j M_ij (v_j.w) k_j: row 0: -(0.5, 2); row 1: -(0.5, 2) + 2 (0, 1.25)
    assert q.grad.view(2, 2).tolist() == [[-0.5, -2], [-0.5, 0.5]]
    # dL/dk_j = (v_j.w) sum_i M_ij q_i: row 0: -(2, 1); row 1: 2 (1, 1)
    assert k.grad.view(2, 2).tolist() == [[-2, -1], [2, 2]]
    # dL/dv_j = w sum_i M_ij (q_i.k_j): 0.5 + 2.5 and 1.25
    assert v.grad.view(2, 2).tolist() == [[3, 6], [1.25, 2.5]]


def test_what_is_refused() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'state'"):
        A2OS2A("stat")  # type: ignore[arg-type]
    bias = torch.zeros(1, 2, 2)
    with pytest.raises(ConfigError, match="no scores"):
        A2OS2A("state")(Q, K, V, ALL, bias)
