"""Products with int4 weights in groups, on every path, against NumPy and by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikeformers import kernels
from spikeformers.export.quantising import from_upper_half, pack_nibbles, upper_half
from spikeformers.kernels import reference

native = pytest.importorskip("spikeformers.kernels._native")
PATHS = [name for name, runs, _ in native.paths() if runs]
RNG = np.random.default_rng


def weights(rng: Any, inputs: int, outputs: int) -> tuple[Any, Any, Any]:
    """Whole numbers 0 to 15 ``[in, out]``, scales and minima ``[groups, out]`` as halves."""
    whole = rng.integers(0, 16, (inputs, outputs)).astype(np.uint8)
    shape = (-(-inputs // 32), outputs)
    scale, minimum = rng.uniform(0, 1, shape), rng.uniform(-8, 1, shape)
    return whole, upper_half(scale.astype(np.float32)), upper_half(minimum.astype(np.float32))


@pytest.mark.parametrize("path", PATHS)
def test_a_product_by_hand(path: str) -> None:
    """33 inputs are two groups; L = 7 and the unit is 1, so counts are the values themselves."""
    x = np.zeros((1, 33), np.float32)
    x[0, [0, 1, 32]] = 7, -2, 3
    whole = np.zeros((33, 2), np.uint8)
    whole[[0, 1, 32]] = [[1, 15], [2, 0], [4, 5]]
    scale = upper_half(np.array([[1, 0.5], [2, 3]], np.float32))
    minimum = upper_half(np.array([[-1, 0], [0.5, -4]], np.float32))
    given_: dict[str, Any] = {"group_scale": scale, "minimum": minimum, "steps": 4, "reach": 100.0}
    computed = kernels.count_product(x, pack_nibbles(whole), path=path, **given_)
    # (7 - 4) - 5 + 2 * 12 + 0.5 * 3;  0.5 * 105 + 3 * 15 - 4 * 3
    assert computed.tolist() == [[23.5, 85.5]]


@given(
    seed=st.integers(0, 2**32 - 1),
    tokens=st.integers(1, 9),
    inputs=st.integers(1, 300),
    outputs=st.integers(1, 200),
    density=st.floats(0, 1),
    steps=st.integers(2, 8),
    reach=st.sampled_from([1.0, 8.0, 1e3]),
)
def test_products_of_any_shape(
    seed: int,
    tokens: int,
    inputs: int,
    outputs: int,
    density: float,
    steps: int,
    reach: float,
) -> None:
    """Whole values, whose means round alike in any order, so that the reference is bit for bit."""
    rng = RNG(seed)
    x = rng.integers(-300, 301, (tokens, inputs)) * (rng.random((tokens, inputs)) < density)
    x = np.where(rng.random(x.shape) < 0.02, 30 * x, x).astype(np.float32)
    whole, scale, minimum = weights(rng, inputs, outputs)
    packed, bias = pack_nibbles(whole), rng.standard_normal(outputs).astype(np.float32)
    code: dict[str, Any] = {"steps": steps, "reach": reach, "dead_zone": 0.1}
    reals = (from_upper_half(scale), from_upper_half(minimum))
    expected = reference.grouped_product(x, whole, *reals, bias, **code)
    code |= {"group_scale": scale, "minimum": minimum}
    for path in PATHS:
        for threads in (1, 2):
            computed = kernels.count_product(
                x, packed, bias=bias, path=path, threads=threads, **code
            )
            assert (computed == expected).all()
        alone = kernels.count_product(x[-1:], packed, bias=bias, path=path, **code)
        assert (alone == expected[-1:]).all()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("tokens", [1, 5])
def test_the_largest_counts_and_weights_do_not_overflow(tokens: int, path: str) -> None:
    """32 counts of 127 times 15 leave 16 bits behind; a width beyond one tile."""
    whole = np.full((70, 4200), 15, np.uint8)
    scale = upper_half(np.full((3, 4200), 0.5, np.float32))
    minimum = upper_half(np.full((3, 4200), -4.0, np.float32))
    for sign in (1, -1):
        x = np.full((tokens, 70), sign * 127.0, np.float32)
        given_: dict[str, Any] = {"group_scale": scale, "minimum": minimum, "path": path}
        computed = kernels.count_product(x, pack_nibbles(whole), **given_)
        assert (computed == sign * 127 * 70 * 3.5).all()


def test_what_does_not_fit_is_refused() -> None:
    x, (whole, scale, minimum) = np.ones((1, 40), np.float32), weights(RNG(1), 40, 70)
    packed = pack_nibbles(whole)

    def refused(part: str, *arguments: Any, **more: Any) -> None:
        with pytest.raises((ValueError, TypeError), match=part):
            kernels.count_product(x, *arguments, **more)

    both = {"group_scale": scale, "minimum": minimum}
    refused("scales and minima of its groups", packed, group_scale=scale)
    refused("scales and minima of its groups", packed, minimum=minimum)
    refused("no other scale", packed, np.ones(70, np.float32), **both)
    refused("weights in uint8", whole.astype(np.int8), **both)
    refused("for each 32 inputs", packed, group_scale=scale[:1], minimum=minimum)
    refused("for each 32 inputs", packed, group_scale=scale, minimum=minimum[:, :69])
    refused("32 bytes a row", packed[:, :32].copy(), **both)
    refused("between widths 40 and 70", packed[:33].copy(), **both)
