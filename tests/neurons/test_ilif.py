"""I-LIF: counts instead of shares, otherwise NI-LIF."""

from __future__ import annotations

import pytest
import torch

from spikeformers.neurons import ILIF, NILIF


def test_trajectory_by_hand() -> None:
    # D = 3, decay 0.25. Membrane U, count, H = 0.25 (U - count):
    #   2.6  3  -0.1 | 1.3  1  0.075 | 4.875  3  0.46875 | 0.26875  0  0.0671875
    neuron = ILIF(levels=3, decay=0.25)
    carry, spikes, carries = None, [], []
    for now in torch.tensor([2.6, 1.4, 4.8, -0.2]).unsqueeze(-1):
        s, carry = neuron.step(now, carry)
        spikes.append(s.item())
        carries.append(carry.item())
    assert spikes == [3, 1, 3, 0]
    assert carries == pytest.approx([-0.1, 0.075, 0.46875, 0.0671875], abs=1e-6)
    assert neuron.unit == 1.0


def test_counts_are_nilif_times_levels() -> None:
    torch.manual_seed(0)
    current = torch.randn(5, 3, 40) * 3
    counts = ILIF(4, 0.5)(current)
    assert torch.equal(counts, NILIF(4, 0.5)(current) * 4)
    assert counts.unique().tolist() == [0, 1, 2, 3, 4]


def test_gradient_is_one_in_the_window() -> None:
    points = [[-0.5, 0.0, 2.0, 4.0, 4.5]]
    u = torch.tensor(points, requires_grad=True)
    ILIF(4)(u).sum().backward()
    assert u.grad.tolist() == [[0, 1, 1, 1, 0]]
    u = torch.tensor(points, requires_grad=True)
    ILIF(4, margin=0.25, leak=0.5)(u).sum().backward()
    assert u.grad.tolist() == [[0.5, 1, 1, 1, 0.5]]
