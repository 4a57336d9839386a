"""SpikeLinear: folded weights and binary sub-steps give what counts give."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spikeformers.layers import SpikeLinear
from spikeformers.neurons import ILIF, LIF, NILIF


def test_by_hand() -> None:
    layer = SpikeLinear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[4.0, 8.0], [-2.0, 0.0]]))
        layer.bias.copy_(torch.tensor([1.0, 10.0]))
        # Counts (3, 1) of the unit 1/4.
        assert layer(torch.tensor([0.75, 0.25])).tolist() == [6.0, 8.5]
        layer.fold(0.25)
        assert layer.weight.tolist() == [[1.0, 2.0], [-0.5, 0.0]]
        sub_steps = torch.tensor([[1.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
        assert layer(sub_steps).tolist() == [6.0, 8.5]  # the bias once, not four times


@given(seed=st.integers(0, 2**31 - 1), levels=st.integers(1, 6), bias=st.booleans())
def test_expanded_integer_neurons_give_the_same_output(seed: int, levels: int, bias: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    current = torch.randn(2, 3, 8, generator=generator, dtype=torch.float64) * 2
    for neuron in (NILIF(levels, 0.5), ILIF(levels, 0.5), LIF(0.5, 0.7)):
        layer = SpikeLinear(8, 5, bias).double()
        y = layer(neuron(current))
        neuron.expanded = True
        layer.fold(neuron.unit)
        sub_steps = neuron(current)
        assert set(sub_steps.unique().tolist()) <= {0.0, 1.0}
        torch.testing.assert_close(layer(sub_steps), y, rtol=0, atol=1e-12)


def test_unfolded_is_a_linear_layer() -> None:
    torch.manual_seed(0)
    layer = SpikeLinear(4, 3)
    x = torch.randn(2, 4)
    assert layer(x).detach() == pytest.approx((x @ layer.weight.T + layer.bias).detach(), rel=1e-5)
