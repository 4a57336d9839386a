"""SFSA: the order of product, mask and neuron, by hand."""

from __future__ import annotations

import torch
from torch import Tensor

from spikeformers.attention import SFSA
from spikeformers.neurons import LIF

# Two steps, two tokens, K = 3. Coincidences q_i . k_j:
#   step 0   [[2, 1], [1, 1]]        step 1   [[1, 3], [2, 1]]
Q = torch.tensor([[[1.0, 1, 0], [0, 1, 0]], [[1, 1, 1], [1, 0, 1]]]).view(2, 1, 1, 2, 3)
K = torch.tensor([[[1.0, 1, 0], [0, 1, 1]], [[0, 0, 1], [1, 1, 1]]]).view(2, 1, 1, 2, 3)
K[1, 0, 0, 0] = torch.tensor([1.0, 0, 1])
V = torch.tensor([[[1.0, 0, 1], [0, 1, 1]], [[0, 1, 0], [1, 1, 0]]]).view(2, 1, 1, 2, 3)
CAUSAL = torch.ones(1, 1, 2, 2, dtype=torch.bool).tril()


def lif(threshold: float = 1.5, learned: tuple[int, ...] | None = None) -> LIF:
    return LIF(0.5, threshold, "delayed", "arctan", 2.0, learned)


def test_two_steps_by_hand() -> None:
    # q k^T:  step 0 [[2, 1], [1, 1]], step 1 [[2, 3], [2, 2]];  causal: the upper right is 0.
    scores = Q @ K.transpose(-1, -2)
    assert scores.view(2, 2, 2).tolist() == [[[2, 1], [1, 1]], [[2, 3], [2, 2]]]
    core = SFSA(lif())
    edges = core.weights(Q, K, CAUSAL, None).view(2, 2, 2)
    # Threshold 1.5, beta 0.5.  (0,0): U = 2 fires; then 2 + 0.5 * 2 - 1.5 = 1.5 fires.
    # (1,0): U = 1 silent; then 2 + 0.5 = 2.5 fires.  (1,1): the same.  (0,1): masked, 0 and 0.
    assert edges.tolist() == [[[1, 0], [0, 0]], [[1, 0], [1, 1]]]
    # O_int = A V, integers: step 0 [v0, 0], step 1 [v0, v0 + v1].
    out = core(Q, K, V, CAUSAL).view(2, 2, 3)
    assert out.tolist() == [[[1, 0, 1], [0, 0, 0]], [[0, 1, 0], [1, 2, 0]]]


def test_the_mask_multiplies_before_the_neuron() -> None:
    """Masked after the neuron, an edge would still charge; as minus infinity, it would not end."""
    late = LIF(1.0, 1.5, "delayed")
    ones = torch.ones(3, 1, 1, 1, 1)
    closed = torch.zeros(1, 1, 1, 1, dtype=torch.bool)
    assert SFSA(late).weights(ones, ones, closed, None).sum() == 0
    bias = torch.full((1, 1, 1), 7.0)  # a bias is inside the mask too
    assert SFSA(late).weights(ones, ones, closed, bias).sum() == 0
    assert SFSA(late).weights(ones, ones, ~closed, bias).flatten().tolist() == [1, 1, 1]


def test_scale_and_bias_by_hand() -> None:
    # (2 * 0.5 + 0.4, 1 * 0.5 + 0.4; 0.9, 0.9) at threshold 1: only the first fires at step 0.
    core = SFSA(lif(1.0), scale=0.5)
    bias = torch.full((1, 2, 2), 0.4)
    allowed = torch.ones(1, 1, 2, 2, dtype=torch.bool)
    assert core.weights(Q, K, allowed, bias)[0].view(2, 2).tolist() == [[1, 0], [0, 0]]


def test_gradients_in_closed_form_with_the_reset_in_the_graph() -> None:
    q, k, v = (torch.rand(2, 1, 1, 1, 2, dtype=torch.float64) for _ in range(3))
    neuron = lif(0.3, (1, 1, 1)).double()
    core = SFSA(neuron, 0.8, 1, learn_scale=True).double()
    for x in (q, k, v):
        x.requires_grad_()
    allowed = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    core(q, k, v, allowed).sum().backward()

    def surrogate(u: Tensor) -> Tensor:
        return 1 / (1 + (torch.pi * (u - 0.3)) ** 2)

    s = 0.8
    with torch.no_grad():
        a0, a1 = ((q[t] * k[t]).sum() for t in (0, 1))
        u0 = s * a0
        s0 = (u0 >= 0.3).double()
        u1 = s * a1 + 0.5 * u0 - 0.3 * s0
        w0, w1 = v[0].sum(), v[1].sum()  # dL/dS of each step
        d1 = w1 * surrogate(u1)
        d0 = (w0 - 0.3 * d1) * surrogate(u0) + 0.5 * d1  # through the reset, and the leak
        torch.testing.assert_close(q.grad[1], s * d1 * k[1])
        torch.testing.assert_close(q.grad[0], s * d0 * k[0])
        torch.testing.assert_close(k.grad[0], s * d0 * q[0])
        torch.testing.assert_close(v.grad[0], s0.expand_as(v[0]))
        scale = (d0 * a0 + d1 * a1) * s  # d s / d log s = s
        torch.testing.assert_close(core.log_scale.grad.sum(), scale)
        # V_th stands in both comparisons and in the reset of the first step.
        g1 = -d1 - d1 * s0
        g0 = -(w0 - 0.3 * d1) * surrogate(u0)
        torch.testing.assert_close(neuron.log_threshold.grad.sum(), (g0 + g1) * 0.3)
