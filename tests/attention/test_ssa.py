"""SSA: a product with a mask, by hand."""

from __future__ import annotations

import torch

from spikeformers.attention import SSA

Q = torch.tensor([[1.0, 0.0], [1.0, 1.0]]).view(1, 1, 1, 2, 2)
K = torch.tensor([[1.0, 1.0], [0.0, 1.0]]).view(1, 1, 1, 2, 2)
V = torch.tensor([[0.0, 1.0], [1.0, 1.0]]).view(1, 1, 1, 2, 2)
CAUSAL = torch.ones(1, 1, 2, 2, dtype=torch.bool).tril()
ALL = torch.ones(1, 1, 2, 2, dtype=torch.bool)


def test_two_tokens_by_hand() -> None:
    # Q K^T = [[1, 0], [2, 1]]; times V: [[0, 1], [1, 3]]; times s = 0.5.
    core = SSA(0.5)
    assert core.weights(Q, K, ALL, None).view(2, 2).tolist() == [[0.5, 0], [1, 0.5]]
    assert core(Q, K, V, ALL).view(2, 2).tolist() == [[0, 0.5], [0.5, 1.5]]


def test_causal_mask_by_hand() -> None:
    # With K swapped Q K^T = [[0, 1], [1, 2]]; the mask drops the 1 of row 0.
    swapped = K.flip(-2)
    core = SSA(0.5)
    assert core(Q, swapped, V, ALL).view(2, 2).tolist() == [[0.5, 0.5], [1, 1.5]]
    assert core(Q, swapped, V, CAUSAL).view(2, 2).tolist() == [[0, 0], [1, 1.5]]


def test_gradients_by_hand() -> None:
    q, k, v = (x.clone().requires_grad_() for x in (Q, K, V))
    SSA(0.5)(q, k, v, CAUSAL).sum().backward()
    # L = s sum_ij M_ij (q_i.k_j) |v_j| with |v| = (1, 2).
    # dL/dq_i = s sum_j M_ij |v_j| k_j: row 0: (1, 1) / 2; row 1: ((1, 1) + 2 (0, 1)) / 2
    assert q.grad.view(2, 2).tolist() == [[0.5, 0.5], [0.5, 1.5]]
    # dL/dk_j = s |v_j| sum_i M_ij q_i: row 0: (2, 1) / 2; row 1: 2 (1, 1) / 2
    assert k.grad.view(2, 2).tolist() == [[1, 0.5], [1, 1]]
    # dL/dv_j = s sum_i M_ij (q_i.k_j): 1 + 2 and 1, over 2
    assert v.grad.view(2, 2).tolist() == [[1.5, 1.5], [0.5, 0.5]]


def test_bias_is_added_before_the_mask() -> None:
    bias = torch.tensor([[[1.0, 10.0], [-2.0, 3.0]]])
    w = SSA(0.5).weights(Q, K, CAUSAL, bias)
    assert w.view(2, 2).tolist() == [[1.5, 0], [-1, 3.5]]


def test_a_query_without_keys_gets_zeros() -> None:
    allowed = torch.tensor([[False, False], [True, False]]).view(1, 1, 2, 2)
    assert SSA(0.5)(Q, K, V, allowed).view(2, 2).tolist() == [[0, 0], [0, 1]]
