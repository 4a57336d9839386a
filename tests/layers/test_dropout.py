"""Dropout of spikes: what stays keeps its value."""

from __future__ import annotations

import torch

from spikeformers.layers import SpikeDropout


def test_spikes_are_silenced_or_left_as_they_were() -> None:
    torch.manual_seed(0)
    spikes = torch.tensor([0.0, 1.0, -1.0, 3.0]).repeat(20_000, 1).requires_grad_()
    dropped = SpikeDropout(0.25).train()(spikes)
    assert [column.unique().tolist() for column in dropped.unbind(1)] == [
        [0],
        [0, 1],
        [-1, 0],
        [0, 3],
    ]
    stayed = dropped[:, 1:] != 0
    torch.testing.assert_close(stayed.float().mean(0), torch.full((3,), 0.75), atol=0.01, rtol=0)
    dropped.sum().backward()
    assert torch.equal(spikes.grad[:, 1:], stayed.float())


def test_nothing_is_dropped_in_evaluation_or_at_probability_zero() -> None:
    spikes = torch.ones(5)
    assert SpikeDropout(0.9).eval()(spikes) is spikes
    assert SpikeDropout(0.0).train()(spikes) is spikes
    assert repr(SpikeDropout(0.1)) == "SpikeDropout(p=0.1)"
