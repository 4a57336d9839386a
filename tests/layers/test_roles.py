"""Neurons of Q, K and V: the equations of the paper's note, and their gradients."""

from __future__ import annotations

import pytest
import torch

from spikeformers.errors import ConfigError
from spikeformers.layers import RoleNeurons
from spikeformers.neurons import LIF, Neuron, Rectifier


def test_ternary_is_the_papers_recursion() -> None:
    """u <- 0.25 u + x;  s = sign(u) [|u| >= 0.5];  u <- u (1 - |s|)."""
    current = torch.randn(6, 50, generator=torch.Generator().manual_seed(1))
    expected, u = [], torch.zeros(50)
    for x in current:
        u = 0.25 * u + x
        s = torch.sign(u) * (u.abs() >= 0.5)
        u = u * (1 - s.abs())
        expected.append(s)
    spikes = RoleNeurons().make("ternary")(current)
    assert torch.equal(spikes, torch.stack(expected))
    assert set(spikes.unique().tolist()) == {-1, 0, 1}


def test_ternary_passes_gradient_through_the_clamp() -> None:
    u = torch.tensor([[-1.5, -0.7, -0.1, 0.3, 0.9, 2.0]], requires_grad=True)
    RoleNeurons().make("ternary")(u).sum().backward()
    assert u.grad.tolist() == [[0, 1, 1, 1, 1, 0]]


def test_a_threshold_moves_both_neurons() -> None:
    x = torch.tensor([[0.4, 0.9, 1.1, 2.1]])
    assert RoleNeurons(threshold=2.0).make("ternary")(x).tolist() == [[0, 0, 1, 1]]
    assert RoleNeurons(threshold=2.0).make("binary")(x).tolist() == [[0, 0, 0, 1]]


def test_binary_resets_to_zero() -> None:
    # U 0.8, then 0.8 + 0.4 = 1.2 fires, then 0.8 after the reset
    neuron = RoleNeurons().make("binary")
    assert isinstance(neuron, LIF)
    assert neuron(torch.full((3, 1), 0.8)).flatten().tolist() == [0, 1, 0]


def test_relu_is_real_and_no_neuron() -> None:
    relu = RoleNeurons().make("relu")
    assert isinstance(relu, Rectifier)
    assert not isinstance(relu, Neuron)
    x = torch.tensor([[-1.0, 0.25, 3.0]], requires_grad=True)
    y = relu(x)
    assert y.tolist() == [[0, 0.25, 3]]
    y.sum().backward()
    assert x.grad.tolist() == [[0, 1, 1]]


def test_an_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'ternary'"):
        RoleNeurons().make("ternry")
