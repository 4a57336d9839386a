"""Relative bias: an entry a head and distance."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spikeformers.layers import RelativeBias

CPU = torch.device("cpu")


@given(
    keys=st.integers(1, 9),
    queries=st.integers(1, 9),
    reach=st.integers(1, 6),
    causal=st.booleans(),
)
def test_equals_its_definition(keys: int, queries: int, reach: int, causal: bool) -> None:
    queries = min(queries, keys)
    layer = RelativeBias(2, reach, causal)
    with torch.no_grad():
        layer.bias.copy_(torch.arange(layer.bias.numel()).view_as(layer.bias))
    got = layer(queries, keys, CPU)
    for h in range(2):
        for row in range(queries):
            i = keys - queries + row
            for j in range(keys):
                distance = min(i - j, reach - 1)
                if causal:
                    if j > i:
                        continue  # masked later
                    entry = distance
                else:
                    entry = max(distance, 1 - reach) + reach - 1
                assert got[h, row, j] == layer.bias[h, entry]


def test_a_cached_query_gets_the_last_row() -> None:
    layer = RelativeBias(2, 4, causal=True)
    torch.nn.init.normal_(layer.bias)
    complete = layer(6, 6, CPU)
    assert torch.equal(layer(1, 6, CPU), complete[:, -1:])
    assert torch.equal(layer(2, 6, CPU), complete[:, -2:])


def test_starts_from_alibi() -> None:
    # Four heads: slopes 1/4, 1/16, 1/64, 1/256, times the given slope.
    layer = RelativeBias(4, 3, causal=True, slope=2.0)
    slopes = [2 / 4, 2 / 16, 2 / 64, 2 / 256]
    expected = torch.tensor([[-0.0, -s, -2 * s] for s in slopes])
    torch.testing.assert_close(layer.bias.detach(), expected)
    both_sides = RelativeBias(4, 3, causal=False, slope=2.0)
    expected = torch.tensor([[-2 * s, -s, 0, -s, -2 * s] for s in slopes])
    torch.testing.assert_close(both_sides.bias.detach(), expected)
    torch.nn.init.normal_(layer.bias)
    layer.reset_parameters()
    assert layer.bias[0].tolist() == pytest.approx([0, -0.5, -1])


def test_gradient_counts_the_pairs_at_each_distance() -> None:
    layer = RelativeBias(1, 3, causal=True)
    layer(4, 4, CPU).tril().sum().backward()
    # Distance 0: four pairs, 1: three, 2 and more: two and one.
    assert layer.bias.grad.tolist() == [[4, 3, 3]]
