"""Counts whose threshold follows their token, on every path, against NumPy and by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikeformers import kernels
from spikeformers.kernels import reference

native = pytest.importorskip("spikeformers.kernels._native")
PATHS = [name for name, runs, _ in native.paths() if runs]
RNG = np.random.default_rng


def rows(rng: Any, tokens: int, inputs: int, far: float) -> Any:
    """Values of many sizes: a row of zeros, exact halves, and a share ``far`` that is far out."""
    x = rng.standard_normal((tokens, inputs)) * 10.0 ** rng.integers(-3, 4, (tokens, 1))
    x *= np.where(rng.random(x.shape) < far, 40, 1)
    x[rng.random(x.shape) < 0.1] = 0
    x[rng.random(tokens) < 0.1] = 0
    return x.astype(np.float32)


CODES = st.fixed_dictionaries(
    {
        "steps": st.integers(2, 8),
        "reach": st.sampled_from([1.0, 3.0, 8.0, 1e3]),
        "dead_zone": st.sampled_from([0.0, 0.1, 0.7]),
        "power_of_two": st.booleans(),
    }
)


@pytest.mark.parametrize("path", PATHS)
def test_counts_by_hand(path: str) -> None:
    """L = 7. The mean is 2, the largest 7, so the unit is 1; halves go away from zero."""
    x = np.array([[7, -1.5, 0.5, 0.49, -0.51, 2.0, 2.0, 2.0]], np.float32)
    count, unit = kernels.token_counts(x, 4, reach=8.0, path=path)
    assert unit.tolist() == [1.0]
    assert count.tolist() == [[7, -2, 1, 0, -1, 2, 2, 2]]
    # With a reach of 1.75 means the unit is half as large, and 7 lies beyond 7 units: far.
    count, unit = kernels.token_counts(x, 4, reach=1.75, dead_zone=0.5, path=path)
    assert unit.tolist() == [0.5]
    assert count.tolist() == [[14, -3, 0, 0, 0, 4, 4, 4]]


@pytest.mark.parametrize("path", PATHS)
def test_units_are_rounded_up_to_powers_of_two(path: str) -> None:
    x = np.array([[7.0, 7], [7.1, -7.1], [1e-30, 1e-30], [0, 0]], np.float32)
    count, unit = kernels.token_counts(x, 4, power_of_two=True, path=path)
    assert unit.tolist() == [1.0, 2.0, 2.0**-102, 0.0]
    assert count.tolist() == [[7, 7], [4, -4], [5, 5], [0, 0]]


@pytest.mark.parametrize("path", PATHS)
def test_values_too_small_to_divide_by_are_silent(path: str) -> None:
    count, unit = kernels.token_counts(np.full((1, 9), 1e-40, np.float32), path=path)
    assert unit.tolist() == [0.0]
    assert not count.any()


@given(
    seed=st.integers(0, 2**32 - 1),
    tokens=st.integers(1, 9),
    inputs=st.integers(1, 300),
    far=st.sampled_from([0.0, 0.02]),
    code=CODES,
)
def test_counts_of_any_shape(
    seed: int, tokens: int, inputs: int, far: float, code: dict[str, Any]
) -> None:
    x = rows(RNG(seed), tokens, inputs, far)
    expected, unit = reference.token_counts(x, **code)
    first = kernels.token_counts(x, **code)
    # Sums in another order may round a mean, and with it a unit, by one place.
    same = first[1] == unit
    assert (np.abs(first[1] - unit) <= 2e-7 * unit).all() or code["power_of_two"]
    assert (first[0][same] == expected[same]).all()
    assert same.mean() > 0.5 or tokens < 9
    for path in PATHS:
        count, units = kernels.token_counts(x, **code, path=path)
        assert (count == first[0]).all()
        assert (units == first[1]).all()


@given(
    seed=st.integers(0, 2**32 - 1),
    tokens=st.integers(1, 11),
    inputs=st.integers(1, 300),
    outputs=st.integers(1, 200),
    far=st.sampled_from([0.0, 0.02]),
    code=CODES,
)
def test_products_of_any_shape(
    seed: int, tokens: int, inputs: int, outputs: int, far: float, code: dict[str, Any]
) -> None:
    rng = RNG(seed)
    x = rows(rng, tokens, inputs, far)
    whole = rng.integers(-128, 128, (inputs, outputs)).astype(np.int8)
    real = rng.standard_normal((inputs, outputs)).astype(np.float32)
    scale = rng.uniform(0.5, 2, outputs).astype(np.float32)
    bias = rng.standard_normal(outputs).astype(np.float32)
    count, unit = kernels.token_counts(x, **code)
    sums = count.astype(np.int64) @ whole.astype(np.int64)
    expected = sums.astype(np.float32) * (scale * unit[:, None]) + bias
    size = np.abs(count).astype(float) @ np.abs(real) * unit[:, None] + 1
    first = None
    for path in PATHS:
        for threads in (1, 2):
            computed = kernels.count_product(
                x, whole, scale, bias, **code, path=path, threads=threads
            )
            assert (computed == expected).all()
        alone = kernels.count_product(x[:1], whole, scale, bias, **code, path=path)
        assert (alone == expected[:1]).all()
        computed = kernels.count_product(x, real, bias=bias, **code, path=path)
        exact = count.astype(np.float64) @ real.astype(np.float64) * unit[:, None] + bias
        assert (np.abs(computed - exact) <= 1e-6 * size).all()
        first = computed if first is None else first
        assert (computed == first).all()


def test_the_reference_is_bit_for_bit() -> None:
    """Where its means round as the kernel's do: of whole numbers, sums are exact."""
    rng = RNG(2)
    x = rng.integers(-3000, 3000, (9, 700)).astype(np.float32)
    whole = rng.integers(-127, 128, (700, 130)).astype(np.int8)
    scale, bias = rng.uniform(0.5, 2, (2, 130)).astype(np.float32)
    for power_of_two in (False, True):
        given_: dict[str, Any] = {"steps": 8, "dead_zone": 0.1, "power_of_two": power_of_two}
        expected = reference.count_product(x, whole, scale, bias, **given_)
        for path in PATHS:
            assert (
                kernels.count_product(x, whole, scale, bias, **given_, path=path) == expected
            ).all()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("weight", [-128, -127, 127])
@pytest.mark.parametrize("tokens", [1, 4, 5])
def test_the_largest_counts_and_weights_do_not_overflow(
    tokens: int, weight: int, path: str
) -> None:
    """Every count at +-127 and every weight at its bound: two products fill 16 bits."""
    ones = np.ones(130, np.float32)
    for sign in ("positive", "negative", "mixed"):
        x = np.full((tokens, 4097), 127.0, np.float32)
        if sign == "negative":
            x = -x
        elif sign == "mixed":
            x[:, ::2] *= -1
        whole = np.full((4097, 130), weight, np.int8)
        whole[:, 1::2] = RNG(1).integers(-128, 128, (4097, 65))
        computed = kernels.count_product(x, whole, ones, path=path)
        assert (computed == (x.astype(np.int64) @ whole.astype(np.int64)).astype(np.float32)).all()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("tokens", [1, 4])
def test_one_value_far_beyond_all_others_counts_in_full(tokens: int, path: str) -> None:
    """The widest row there may be: its far count is some 65,536 / 8 times the largest near one."""
    x = np.full((tokens, 2**16), 1e-6, np.float32)
    x[:, 777] = -1e6
    whole = np.full((2**16, 3), -128, np.int8)
    count, _ = kernels.token_counts(x, path=path)
    assert count.min() == pytest.approx(-127 * 2**16 / 8, rel=1e-3)
    computed = kernels.count_product(x, whole, np.ones(3, np.float32), path=path)
    np.testing.assert_allclose(computed, np.full((tokens, 3), 128e6), rtol=1e-5)


def test_rows_of_zeros_leave_the_bias() -> None:
    x, whole = np.zeros((5, 70), np.float32), np.full((70, 9), 100, np.int8)
    bias = np.arange(9, dtype=np.float32)
    for path in PATHS:
        for tokens in (1, 5):
            ones = np.ones(9, np.float32)
            computed = kernels.count_product(x[:tokens], whole, ones, bias, path=path)
            assert (computed == bias).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    x = np.ones((2, 5), np.float32)
    x[1, 3] = value
    for path in PATHS:
        with pytest.raises(OverflowError, match="not finite"):
            kernels.token_counts(x, path=path)
        with pytest.raises(OverflowError, match="not finite"):
            kernels.count_product(x, np.ones((5, 3), np.float32), path=path)


@pytest.mark.parametrize(
    ("given_", "part"),
    [
        ({"steps": 1}, "2 to 8 steps"),
        ({"steps": 9}, "2 to 8 steps"),
        ({"reach": 0.5}, "reach must be 1 to 2\\^10"),
        ({"reach": float("nan")}, "reach must be 1 to 2\\^10"),
        ({"dead_zone": -0.1}, "dead zone must be 0 to 2\\^20"),
        ({"dead_zone": float("inf")}, "dead zone must be 0 to 2\\^20"),
    ],
)
def test_codes_that_there_are_not_are_refused(given_: dict[str, Any], part: str) -> None:
    x = np.ones((1, 5), np.float32)
    with pytest.raises(ValueError, match=part):
        kernels.token_counts(x, **given_)
    with pytest.raises(ValueError, match=part):
        kernels.count_product(x, np.ones((5, 3), np.float32), **given_)


def test_what_does_not_fit_is_refused() -> None:
    x, ones = np.ones((1, 5), np.float32), np.ones(3, np.float32)
    with pytest.raises(ValueError, match="more inputs than a whole sum of token counts holds"):
        kernels.token_counts(np.ones((1, 2**16 + 1), np.float32))
    with pytest.raises(ValueError, match="a matrix of 4 x 3 between widths 5 and 3"):
        kernels.count_product(x, np.ones((4, 3), np.int8), ones)
    with pytest.raises(ValueError, match="int8 weights need a scale"):
        kernels.count_product(x, np.ones((5, 3), np.int8))
    packed = np.zeros((5, 32), np.uint8)
    with pytest.raises(ValueError, match="counts with a unit per token take weights of"):
        kernels.count_product(x, packed, ones)
    with pytest.raises(ValueError, match="bias has 2 entries, not 3"):
        kernels.count_product(x, np.ones((5, 3), np.int8), ones, np.ones(2, np.float32))
