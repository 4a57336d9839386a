"""Kernels of BiSpikCLM and of converted models, on every path, against NumPy and by hand."""

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


# decay 1/2, threshold 1.5; the query has both features at both steps.
BY_HAND = {
    "1, then 1 + 1/2: fires at the second step": ([[1, 0]], [[1, 0]], [[0, 0]], [[0, 1]]),
    "2 fires, then 1 + 1 - 1.5 is too little": ([[1, 1]], [[1, 0]], [[1, 0]], [[0, 0]]),
    "2 fires, then 2 + 1 - 1.5 is the threshold": ([[1, 1]], [[1, 1]], [[1, 0]], [[0, 1]]),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("case", BY_HAND)
def test_an_edge_by_hand(case: str, path: str) -> None:
    first, second, out_first, out_second = BY_HAND[case]
    computed = kernels.edges(
        np.ones((2, 1, 2), np.int8),
        np.array([first, second], np.int8),
        np.array([[[1, 0]], [[0, 1]]], np.int8),
        heads=1,
        decay=0.5,
        scale=np.ones(1, np.float32),
        threshold=np.full(1, 1.5, np.float32),
        path=path,
    )
    assert computed.tolist() == [out_first, out_second]


@given(
    seed=st.integers(0, 2**32 - 1),
    steps=st.integers(1, 4),
    tokens=st.sampled_from([1, 2, 63, 64, 65, 150]),
    heads=st.integers(1, 3),
    width=st.integers(1, 70),
    density=st.floats(0, 1),
    biased=st.booleans(),
)
def test_edges_of_any_shape(
    seed: int, steps: int, tokens: int, heads: int, width: int, density: float, biased: bool
) -> None:
    rng = RNG(seed)
    shape = (steps, tokens, heads * width)
    q, k, v = ((rng.random(shape) < density).astype(np.int8) for _ in range(3))
    given: dict[str, Any] = {
        "heads": heads,
        "scale": rng.uniform(0.2, 1.5, heads).astype(np.float32),
        "threshold": rng.uniform(0.3, 4, heads).astype(np.float32),
        "decay": 0.9,
        "bias": None,
    }
    if biased:
        given["bias"] = rng.normal(0, 2, (heads, rng.integers(1, 90))).astype(np.float32)
    expected = reference.edges(q, k, v, **given)
    for path in PATHS:
        assert (kernels.edges(q, k, v, path=path, **given) == expected).all()
    assert (kernels.edges(q, k, v, threads=3, **given) == expected).all()


def test_a_pair_by_hand() -> None:
    """Halves go away from zero, counts stop at 3, and OFF has a value of its own."""
    x = np.array([[0.5, -0.25, 0.49, 9.0, -9.0, -0.0]], np.float32)
    value = np.array([[1.0] * 6, [0.5] * 6], np.float32)
    for path in PATHS:
        computed = kernels.pair(x, value, largest=3, path=path)
        assert computed.tolist() == [[1.0, -0.5, 0.0, 3.0, -1.5, 0.0]]
        computed = kernels.pair(x, value, largest=3, sign=False, counts=True, path=path)
        assert computed.tolist() == [[1.0, 0.0, 0.0, 3.0, 0.0, 0.0]]


@given(
    seed=st.integers(0, 2**32 - 1),
    width=st.integers(1, 70),
    largest=st.sampled_from([1, 4, 255, 65535]),
    sign=st.booleans(),
    rows=st.integers(1, 2),
)
def test_pairs_of_any_width(seed: int, width: int, largest: int, sign: bool, rows: int) -> None:
    rng = RNG(seed)
    x = rng.standard_normal((3, width)).astype(np.float32)
    value = (rng.uniform(0.5, 2, (rows, width)) / largest).astype(np.float32)
    for counts in (False, True):
        expected = reference.pair(x, value, largest=largest, sign=sign, counts=counts)
        for path in PATHS:
            computed = kernels.pair(x, value, largest=largest, sign=sign, counts=counts, path=path)
            assert (computed == expected).all()


@pytest.mark.parametrize("kind", ["relu", "silu", "gelu_tanh", "gelu_erf", "quick_gelu"])
def test_activations(kind: str) -> None:
    x = np.concatenate([np.linspace(-12, 12, 1001), [0.0, -0.0, -100.0, 100.0]])
    x = x.astype(np.float32)[None]
    expected = reference.activate(x, kind)
    first = kernels.activate(x, kind)
    assert (np.abs(first - expected) <= 3e-7 * (np.abs(expected) + 1)).all()
    assert all((kernels.activate(x, kind, path=path) == first).all() for path in PATHS)


@pytest.mark.parametrize("cap", [2.0**-20, 0.5, 30.0, 2.0**40])
def test_soft_caps(cap: float) -> None:
    x = np.concatenate([np.linspace(-12, 12, 1001), [0.0, -0.0, 1e-30, -3e38, 3e38]])
    x = (x * cap).clip(-3e38, 3e38).astype(np.float32)[None]
    expected = cap * np.tanh(x / cap)
    first = kernels.soft_cap(x, cap)
    assert (np.abs(first - expected) <= 3e-7 * cap).all()
    assert all((kernels.soft_cap(x, cap, path=path) == first).all() for path in PATHS)


@given(
    seed=st.integers(0, 2**32 - 1),
    tokens=st.sampled_from([1, 2, 64, 65, 130]),
    kv_heads=st.integers(1, 2),
    groups=st.integers(1, 3),
    width=st.integers(1, 70),
    rule=st.sampled_from(["softmax", "winners", "powers", "ssa"]),
    largest=st.sampled_from([0, 4, 255]),
    window=st.sampled_from([0, 1, 3, 64, 65, 200]),
)
def test_attention_over_rows(
    seed: int,
    tokens: int,
    kv_heads: int,
    groups: int,
    width: int,
    rule: str,
    largest: int,
    window: int,
) -> None:
    rng = RNG(seed)
    largest = largest or (4 if rule == "ssa" else 0)

    def rows(heads: int) -> Any:
        shape = (tokens, heads * width)
        whole = rng.integers(-largest, largest + 1, shape) * (rng.random(shape) < 0.6)
        return (whole if largest else rng.standard_normal(shape)).astype(np.float32)

    heads = kv_heads * groups
    q, k, v = rows(heads), rows(kv_heads), rows(kv_heads)
    size = (largest or 1) ** 2 * width**0.5
    given: dict[str, Any] = {
        "heads": heads,
        "kv_heads": kv_heads,
        "rule": rule,
        "scale": (rng.uniform(0.2, 1.5, heads) / size).astype(np.float32),
        "winners": 3 if rule == "winners" else 1,
        "weight": 1 / 3 if rule == "winners" else 1.0,
        "digits": 1 + width % 4,
        "window": window if rule == "softmax" else 0,
    }
    expected = reference.mix(q, k, v, **given)
    first = kernels.mix(q, k, v, largest=largest, threads=2, **given)
    tolerance = 1e-5 * (np.abs(v).max() + np.abs(expected))
    # Of reals, two scores may lie within rounding, and of grades a score and where it rounds.
    if rule in ("softmax", "ssa") or (rule == "winners" and largest):
        assert (np.abs(first - expected) <= tolerance).all()
    for path in PATHS:
        assert (kernels.mix(q, k, v, largest=largest, path=path, **given) == first).all()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("digits", [1, 2, 4])
def test_grades_of_rows(digits: int, path: str) -> None:
    rng = RNG(3)
    q, k, v = (rng.integers(-9, 10, (150, heads * 20)).astype(np.float32) for heads in (6, 2, 2))
    given: dict[str, Any] = {"heads": 6, "kv_heads": 2, "rule": "powers", "digits": digits}
    given |= {"scale": rng.uniform(0.005, 0.1, 6).astype(np.float32)}
    computed = kernels.mix(q, k, v, largest=9, path=path, **given)
    np.testing.assert_allclose(computed, reference.mix(q, k, v, **given), rtol=0, atol=1e-5)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("rule", ["softmax", "winners"])
def test_a_cache_in_halves_is_that_of_rounded_keys_and_values(rule: str, path: str) -> None:
    rng = RNG(5)
    q = rng.standard_normal((150, 6 * 20)).astype(np.float32)
    k, v = (rng.standard_normal((150, 2 * 20)).astype(np.float32) for _ in range(2))
    v[:8] *= np.float32(1e-6)  # below the smallest normal half
    v[8, :4] = [65504, -65504, 65503.9, 0]
    v[9, :2] = 1 + 2.0**-11 * np.array([1, 3])  # half-way between two: to the even one
    given: dict[str, Any] = {"heads": 6, "kv_heads": 2, "rule": rule, "path": path}
    given |= {"scale": np.full(6, 0.2, np.float32), "winners": 3 if rule == "winners" else 1}
    rounded = [x.astype(np.float16).astype(np.float32) for x in (k, v)]
    computed = kernels.mix(q, k, v, half=True, **given)
    assert (computed == kernels.mix(q, *rounded, **given)).all()
    assert (computed != kernels.mix(q, k, v, **given)).any()


def test_what_a_half_cannot_hold_is_refused() -> None:
    x = np.ones((2, 4), np.float32)
    x[1, 3] = 65505
    given: dict[str, Any] = {"heads": 1, "kv_heads": 1, "scale": np.ones(1, np.float32)}
    with pytest.raises(OverflowError, match=r"beyond 65,504.*cache='fp32'"):
        kernels.mix(x, x, x, half=True, **given)
    assert np.isfinite(kernels.mix(x / 100, x, x, **given)).all()
