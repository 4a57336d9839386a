"""The scan against the loop over ``step``: spikes equal, gradients to rounding."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from spikeformers.neurons import LIF, SURROGATES, Neuron


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("reset", ["soft", "hard", "delayed"])
@pytest.mark.parametrize("shape", [None, (1,), (3, 1, 1)])
@pytest.mark.parametrize("steps", [2, 5])
def test_scan_equals_the_loop(steps: int, shape: Any, reset: Any, surrogate: str) -> None:
    torch.manual_seed(steps)
    neuron = LIF(0.7, 0.8, reset, surrogate, 1.3, threshold_shape=shape).double()
    if shape:
        with torch.no_grad():
            neuron.log_threshold += 0.2 * torch.randn(shape)
    current = torch.randn(steps, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(steps, 3, 4, 5, dtype=torch.float64)
    scanned = []
    for run in (neuron.run, lambda x: Neuron.run(neuron, x)):
        neuron.zero_grad()
        current.grad = None
        spikes = run(current)
        (spikes * weight).sum().backward()
        learned = neuron.log_threshold.grad.clone() if shape else torch.zeros(1)
        scanned.append((spikes.detach(), current.grad.clone(), learned))
    assert torch.equal(scanned[0][0], scanned[1][0])
    assert 0.05 < scanned[0][0].mean() < 0.6
    torch.testing.assert_close(scanned[0][1], scanned[1][1])
    torch.testing.assert_close(scanned[0][2], scanned[1][2])
    if shape:
        assert scanned[0][2].abs().min() > 0


def test_the_current_and_its_gradient_are_left_alone() -> None:
    current = torch.randn(3, 7, requires_grad=True)
    before, weight = current.detach().clone(), torch.randn(3, 7)
    kept = weight.clone()
    LIF(0.5).run(current).backward(weight)
    assert torch.equal(current, before)
    assert torch.equal(weight, kept)
