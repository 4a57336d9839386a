"""What a kernel is promised is checked before it runs, on every path; at its edge it is exact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from spikeformers import kernels
from spikeformers.export.quantising import pack_int4
from spikeformers.kernels import reference

native = pytest.importorskip("spikeformers.kernels._native")
PATHS = [name for name, runs, _ in native.paths() if runs]
ONE = np.ones(1, np.float32)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize("count", [65, 127, -65, -128])
def test_counts_that_sums_do_not_hold_are_refused(count: int, rows: int, path: str) -> None:
    counts = np.full((rows, 8), 64, np.int8)
    counts[-1, -1] = count
    matrix, scale = np.full((8, 64), 127, np.int8), np.ones(64, np.float32)
    for weights, by in ((matrix, scale), (pack_int4(matrix // 16), scale), (matrix * ONE, None)):
        with pytest.raises(ValueError, match=f"a count of {count} is not within -64 to 64"):
            kernels.product(counts, weights, by, path=path)
    with pytest.raises(ValueError, match="counts are int8, within -64 to 64"):
        reference.product(counts, matrix, scale)


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.float32])
def test_counts_of_another_type_are_refused_instead_of_wrapped(dtype: Any) -> None:
    counts = np.full((1, 2), 200, dtype)
    with pytest.raises(ValueError, match="product: counts must be int8"):
        kernels.product(counts, np.ones((2, 1), np.int8), ONE)
    with pytest.raises(ValueError, match="attend: counts must be int8"):
        kernels.attend(counts, counts, counts, heads=1, scale=ONE)
    with pytest.raises(ValueError, match="edges: counts must be int8"):
        kernels.edges(*[counts[None]] * 3, heads=1, scale=ONE, threshold=ONE)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("weight", [-128, -127, 127])
@pytest.mark.parametrize("count", [1, 16, 32, 33, 64])
def test_sums_are_exact_at_the_edge_of_what_they_hold(count: int, weight: int, path: str) -> None:
    """Runs of equal signs fill 16 bits fastest; -128 is a weight that export never writes."""
    rng = np.random.default_rng(count)
    for rows in (1, 3, 8):
        for sign in ("positive", "negative", "mixed"):
            counts = np.full((rows, 601), count, np.int8)
            if sign == "negative":
                counts = -counts
            elif sign == "mixed":
                counts[:, ::2] *= rng.choice([-1, 1], (rows, 301)).astype(np.int8)
            matrix = np.full((601, 130), weight, np.int8)
            matrix[:, 1::3] = rng.integers(-128, 128, (601, 43))
            computed = kernels.product(counts, matrix, np.ones(130, np.float32), path=path)
            assert (computed == reference.product(counts, matrix)).all()


@pytest.mark.parametrize("path", PATHS)
def test_levels_that_a_count_does_not_hold_are_refused(path: str) -> None:
    current = np.array([[1000.0, 64.4, -1.0]], np.float32)
    for levels in (0, -1, 65, 128, 1000):
        for fire in (kernels.fire, reference.fire):
            given: dict[str, Any] = {"path": path} if fire is kernels.fire else {}
            with pytest.raises(ValueError, match=f"levels={levels}: levels must be 1 to 64"):
                fire(current, levels=levels, **given)
    assert kernels.fire(current, levels=64, path=path).tolist() == [[64, 64, 0]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"reset": "hard"}, 'an integer neuron has the reset "soft"'),
        ({"reset": "delayed"}, 'an integer neuron has the reset "soft"'),
        ({"spike_type": "ternary", "reset": "delayed"}, 'the resets "soft" and "hard"'),
        ({"spike_type": "ternary", "unit": 0.0}, "the value of a spike"),
        ({"spike_type": "ternary", "unit": -1.0}, "the value of a spike"),
        ({"spike_type": "ternary", "unit": 1e-30}, "the value of a spike"),
        ({"spike_type": "ternary", "unit": float("inf")}, "the value of a spike"),
        ({"spike_type": "ternary", "unit": float("nan")}, "the value of a spike"),
        ({"spike_type": "ternary", "ratio": float("nan")}, "ratio=nan"),
        ({"spike_type": "binary", "threshold": float("nan")}, "threshold=nan"),
        ({"spike_type": "binary", "threshold": 0.0}, "it must be positive"),
        ({"decay": float("nan")}, "decay=nan"),
        ({"decay": 1.5}, "it must be 0 to 1"),
        ({"step": 0.0}, "step=0.*: the potential of a count must be 2"),
        ({"step": 1e-7}, "the potential of a count"),
        ({"step": float("nan")}, "step=nan"),
        ({"step": 2.0**21}, "the potential of a count"),
        ({"dead_zone": -0.1}, "dead_zone=-0.1.*: it must be 0 to"),
        ({"dead_zone": float("nan")}, "dead_zone=nan"),
        ({"dead_zone": float("inf")}, "dead_zone=inf"),
        ({"gain": 0.0}, "gain=0.0.*: it must be 2"),
        ({"gain": float("nan")}, "gain=nan"),
        ({"spike_type": "binary", "gain": 2.0}, "those of an integer neuron"),
        ({"spike_type": "binary", "signed": True}, "those of an integer neuron"),
        ({"spike_type": "ternary", "step": 0.5}, "those of an integer neuron"),
        ({"spike_type": "binary", "dead_zone": 0.5}, "those of an integer neuron"),
    ],
)
def test_neurons_that_there_are_not_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kernels.fire(np.ones((2, 3), np.float32), **given)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_currents_that_are_not_finite_are_refused(value: float) -> None:
    x = np.ones((2, 5), np.float32)
    x[1, 3] = value
    with pytest.raises(ValueError, match="a current is not finite"):
        kernels.fire(x)
    with pytest.raises(OverflowError, match="not finite"):
        kernels.pair(x, np.ones((1, 5), np.float32), largest=3)
    with pytest.raises(ValueError, match="not whole numbers"):
        kernels.mix(x, x, x, heads=1, kv_heads=1, scale=ONE, largest=3)
    with pytest.raises(OverflowError, match="not finite"):
        kernels.mix(x, x, x, heads=1, kv_heads=1, scale=ONE)
    with pytest.raises(OverflowError, match="not finite"):
        kernels.soft_cap(x, 2.0)
    for kind in ("relu", "silu", "gelu_tanh", "gelu_erf", "quick_gelu"):
        assert not np.isfinite(kernels.activate(np.full((1, 5), np.nan, np.float32), kind)).any()


def test_whole_numbers_beyond_an_int_are_refused() -> None:
    x = np.full((1, 2), 1e30, np.float32)
    with pytest.raises(ValueError, match="not whole numbers up to the largest"):
        kernels.mix(x, x, x, heads=1, kv_heads=1, scale=ONE, largest=3)


@pytest.mark.parametrize(
    ("given", "count", "least", "most"),
    [
        ({"spike_type": "binary"}, 2, 0, 1),
        ({"spike_type": "binary"}, -1, 0, 1),
        ({"spike_type": "ternary"}, 2, -1, 1),
        ({"spike_type": "integer", "levels": 4}, 5, 0, 4),
        ({"spike_type": "integer", "levels": 4}, -1, 0, 4),
        ({"spike_type": "integer", "levels": 64, "signed": True}, 65, -64, 64),
        ({"spike_type": "integer", "levels": 64, "signed": True}, -65, -64, 64),
    ],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_counts_that_a_neuron_does_not_emit_are_refused(
    given: dict[str, Any], count: int, least: int, most: int, place: int
) -> None:
    """A cache has as many bit planes as the neuron has levels: others would lose their bits."""
    qkv = [np.zeros((3, 4), np.int8) for _ in range(3)]
    qkv[place][2, 1] = count
    with pytest.raises(ValueError, match=f"a count of {count} is not within {least} to {most}"):
        kernels.attend(*qkv, heads=1, scale=ONE, **given)


@pytest.mark.parametrize("count", [-1, 2])
def test_edges_are_of_binary_spikes(count: int) -> None:
    spikes = np.zeros((1, 3, 4), np.int8)
    spikes[0, 1, 1] = count
    with pytest.raises(ValueError, match=f"edges: a count of {count} is not within 0 to 1"):
        kernels.edges(spikes, spikes, spikes, heads=1, scale=ONE, threshold=ONE)


def attend(**given: Any) -> Any:
    spikes = np.ones((2, 4), np.int8)
    return kernels.attend(spikes, spikes, spikes, heads=1, **({"scale": ONE} | given))


def mix(**given: Any) -> Any:
    x = np.ones((2, 4), np.float32)
    return kernels.mix(x, x, x, heads=1, kv_heads=1, **({"scale": ONE} | given))


def edges(**given: Any) -> Any:
    spikes = np.ones((1, 2, 4), np.int8)
    return kernels.edges(
        spikes, spikes, spikes, heads=1, **({"scale": ONE, "threshold": ONE} | given)
    )


def pair(value: float) -> Any:
    return kernels.pair(np.ones((1, 1), np.float32), value * ONE[None], largest=3)


def norm(eps: float) -> Any:
    return kernels.norm(np.ones(3, np.float32), "rms", np.ones(3, np.float32), eps=eps)


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf, 1e-38, 3e38])
@pytest.mark.parametrize("kernel", [attend, mix, edges])
def test_scales_of_scores_are_positive_and_leave_the_range_of_floats_alone(
    kernel: Callable[..., Any], value: float
) -> None:
    with pytest.raises(ValueError, match="a scale"):
        kernel(scale=np.float32(value) * ONE)


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf, 1e-38, 3e38])
def test_caps_are_positive_and_leave_the_range_of_floats_alone(value: float) -> None:
    with pytest.raises(ValueError, match="its cap is not positive, or not within"):
        kernels.soft_cap(np.ones((1, 3), np.float32), value)


def test_windows_have_a_key_and_a_softmax() -> None:
    for window in (-1, 2**31, -(2**63), 2**63 - 1):
        with pytest.raises(ValueError, match=r"a window has 1 to 2\^31 - 1 keys, or 0"):
            mix(window=window)
    for rule, largest in (("winners", 0), ("ssa", 1)):
        with pytest.raises(ValueError, match="only a softmax has a window of keys"):
            mix(rule=rule, window=2, largest=largest)
    assert (mix(window=2**31 - 1) == mix()).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_other_numbers_that_are_not_finite_or_too_large_are_refused(value: float) -> None:
    beyond = np.float32(value) * ONE
    for kernel in (attend, edges):
        with pytest.raises(ValueError, match="a relative bias is not finite"):
            kernel(bias=beyond[None])
    for kernel in (attend, mix):
        with pytest.raises(ValueError, match="a winner's weight must be 0 to 1"):
            kernel(rule="winners", weight=value)
    with pytest.raises(ValueError, match="a scale or a threshold"):
        edges(threshold=beyond)
    with pytest.raises(ValueError, match="the decay is 0 to 1"):
        edges(decay=value)
    with pytest.raises(ValueError, match="the value of a spike"):
        pair(value)
    with pytest.raises(ValueError, match="eps must be 0 to 1"):
        norm(value)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("unit", [2.0**-20, 1.0, 2.0**20])
@pytest.mark.parametrize("scale", [2.0**-56, 1.0, 2.0**56])
def test_winners_are_exact_at_the_bounds_of_units_and_scales(
    unit: float, scale: float, path: str
) -> None:
    rng = np.random.default_rng(4)
    for bias in (None, np.array([[0.0, -(2.0**99), 2.0**99, 1e-30, 0.5]], np.float32)):
        q, k, v = (rng.integers(0, 65, (200, 9)).astype(np.int8) for _ in range(3))
        given: dict[str, Any] = {"heads": 1, "scale": np.float32(scale) * ONE, "winners": 3}
        given |= {"bias": bias, "unit": unit}
        expected = reference.attend(q, k, v, **given)
        computed = kernels.attend(q, k, v, levels=64, path=path, **given)
        np.testing.assert_allclose(computed, expected, rtol=1e-6)


def test_heads_that_are_wider_than_scores_hold_are_refused() -> None:
    spikes = np.ones((1, 4097), np.int8)
    with pytest.raises(ValueError, match="a head has more than 4096 features"):
        kernels.attend(spikes, spikes, spikes, heads=1, scale=ONE)
    with pytest.raises(ValueError, match="a head has more than 4096 features"):
        kernels.edges(*[spikes[None]] * 3, heads=1, scale=ONE, threshold=ONE)
    x = spikes.astype(np.float32)
    with pytest.raises(ValueError, match="a head has more than 4096 features"):
        kernels.mix(x, x, x, heads=1, kv_heads=1, scale=ONE)


def test_sums_of_ssa_stop_where_64_bits_end() -> None:
    """32767 * 32767 * 32767 * 128 features * 2048 tokens is just below 2^63."""
    given: dict[str, Any] = {"heads": 1, "kv_heads": 1, "rule": "ssa", "largest": 32767}
    given["scale"] = np.full(1, 2.0**-40, np.float32)
    x = np.full((2049, 128), 32767, np.float32)
    computed = kernels.mix(x[:2048], x[:2048], x[:2048], **given)
    assert computed[-1, 5] == np.float32(32767**3 * 128 * 2048 / 2**40)
    with pytest.raises(ValueError, match="2049 tokens: whole sums hold 2048"):
        kernels.mix(x, x, x, **given)
