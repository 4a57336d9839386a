"""Each kernel, on every path that runs here, against NumPy and against the models' own neurons."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spikeformers import kernels
from spikeformers.errors import EngineUnavailable
from spikeformers.export.quantising import pack_int4
from spikeformers.kernels import reference
from spikeformers.neurons import ILIF, LIF, NILIF, TLIF, DeadZone

native = pytest.importorskip("spikeformers.kernels._native")
PATHS = [name for name, runs, _ in native.paths() if runs]
RNG = np.random.default_rng
BINARY: dict[str, Any] = {"spike_type": "binary", "threshold": 0.7, "decay": 0.5}
SIGN: dict[str, Any] = {"signed": True}
DEAD_ZONE: dict[str, Any] = {"levels": 64, "step": 0.25, "dead_zone": 0.3, "decay": 0.5} | SIGN
NO_SIGN: dict[str, Any] = {"signed": False, "dead_zone": 1.2}
TERNARY: dict[str, Any] = {"spike_type": "ternary", "unit": 0.75, "decay": 0.5}


def spikes(rng: Any, shape: tuple[int, ...], density: float, levels: int, signed: bool) -> Any:
    size = rng.integers(1, levels + 1, shape) * (rng.random(shape) < density)
    return (size * (rng.choice([-1, 1], shape) if signed else 1)).astype(np.int8)


@given(
    seed=st.integers(0, 2**32 - 1),
    tokens=st.integers(1, 9),
    inputs=st.integers(1, 300),
    outputs=st.integers(1, 200),
    density=st.floats(0, 1),
    levels=st.sampled_from([1, 4, 16, 64]),
    signed=st.booleans(),
)
def test_products_of_any_shape(
    seed: int, tokens: int, inputs: int, outputs: int, density: float, levels: int, signed: bool
) -> None:
    rng = RNG(seed)
    counts = spikes(rng, (tokens, inputs), density, levels, signed)
    whole = rng.integers(-127, 128, (inputs, outputs)).astype(np.int8)
    small = rng.integers(-8, 8, (inputs, outputs)).astype(np.int8)
    real = rng.standard_normal((inputs, outputs)).astype(np.float32)
    bias = rng.standard_normal(outputs).astype(np.float32)
    ones = np.ones(outputs, np.float32)
    exact = counts.astype(np.int64) @ whole.astype(np.int64)
    exact_small = (counts.astype(np.int64) @ small.astype(np.int64)).astype(np.float32)
    packed = pack_int4(small)
    first = None
    for path in PATHS:
        assert (kernels.product(counts, packed, ones, path=path) == exact_small).all()
        # Below 2^24 floats hold the sums, so equality is exact.
        assert (kernels.product(counts, whole, ones, path=path) == exact.astype(np.float32)).all()
        computed = kernels.product(counts, real, bias=bias, unit=0.25, path=path)
        expected = reference.product(counts, real, bias=bias, unit=0.25)
        size = 1 + np.abs(counts).astype(float) @ np.abs(real)
        assert (np.abs(computed - expected) <= 1e-6 * size).all()
        first = computed if first is None else first
        assert (computed == first).all()  # all paths add in the same order


@pytest.mark.parametrize("path", PATHS)
def test_whole_sums_do_not_overflow(path: str) -> None:
    """The worst case: every input at 64, every weight at its bound, far beyond 16 bits."""
    for tokens in (1, 5):
        for sign in (-1, 1):
            counts = np.full((tokens, 3072), sign * 64, np.int8)
            matrix = np.full((3072, 70), -127, np.int8)
            computed = kernels.product(counts, matrix, np.ones(70, np.float32), path=path)
            assert (computed == -sign * 64 * 127 * 3072).all()
            packed = pack_int4(np.full((3072, 70), -8, np.int8))
            computed = kernels.product(counts, packed, np.ones(70, np.float32), path=path)
            assert (computed == -sign * 64 * 8 * 3072).all()


def test_a_token_alone_gives_the_bits_of_a_batch() -> None:
    rng = RNG(3)
    counts = spikes(rng, (12, 333), 0.2, 16, False)
    matrix = rng.standard_normal((333, 777)).astype(np.float32)
    batch = kernels.product(counts, matrix)
    assert all(
        (kernels.product(row[None], matrix)[0] == batch[i]).all() for i, row in enumerate(counts)
    )
    assert (kernels.product(counts, matrix, threads=4) == batch).all()


@given(
    seed=st.integers(0, 2**32 - 1),
    tokens=st.integers(1, 200),
    heads=st.integers(1, 3),
    width=st.sampled_from([1, 5, 64, 70]),
    density=st.floats(0, 1),
    levels=st.sampled_from([1, 3, 16, 64]),
    winners=st.integers(1, 5),
    distances=st.sampled_from([0, 1, 7, 100]),
    signed=st.booleans(),
)
def test_winners_are_exact(
    seed: int,
    tokens: int,
    heads: int,
    width: int,
    density: float,
    levels: int,
    winners: int,
    distances: int,
    signed: bool,
) -> None:
    """Whole counts make ties common; a bias of few values makes them commoner still.

    All numbers are binary fractions, so that no two scores differ by rounding alone.
    """
    rng = RNG(seed)
    q, k, v = (spikes(rng, (tokens, heads * width), density, levels, signed) for _ in range(3))
    scale = rng.choice([0.25, 0.375, 1.875], heads).astype(np.float32)
    bias = None
    if distances:
        bias = rng.choice([-2.0, -0.125, 0.0, 0.25], (heads, distances)).astype(np.float32)
    unit = 0.5 ** levels.bit_length()
    given_: dict[str, Any] = {"heads": heads, "scale": scale, "winners": winners, "bias": bias}
    expected = reference.attend(q, k, v, unit=unit, **given_)
    for path in PATHS:
        computed = kernels.attend(
            q, k, v, levels=levels, unit=unit, signed=signed, path=path, **given_
        )
        np.testing.assert_allclose(computed, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("rule", ["ssa", "softmax", "powers", "sparsemax", "winners"])
@pytest.mark.parametrize("kind", ["binary", "integer", "signed", "ternary"])
def test_every_rule_and_spike_type(rule: str, kind: str, path: str) -> None:
    rng = RNG(5)
    signed = kind == "signed"
    levels, unit = {"integer": (16, 1 / 16), "signed": (64, 1 / 64), "ternary": (1, 0.75)}.get(
        kind, (1, 1.0)
    )
    q, k, v = (spikes(rng, (150, 48), 0.3, levels, kind in ("signed", "ternary")) for _ in range(3))
    scale = np.array([0.4, 1.3, 0.2], np.float32)
    bias = None if rule == "ssa" else rng.standard_normal((3, 40)).astype(np.float32)
    given_: dict[str, Any] = {"heads": 3, "scale": scale, "rule": rule, "bias": bias, "winners": 3}
    given_ |= {"digits": 3}
    expected = reference.attend(q, k, v, unit=unit, **given_)
    given_ |= {"spike_type": "integer" if signed else kind, "levels": levels, "unit": unit}
    computed = kernels.attend(q, k, v, signed=signed, path=path, **given_)
    np.testing.assert_allclose(computed, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("signed", [False, True])
def test_no_page_is_ruled_out_wrongly(signed: bool) -> None:
    """Keys of very different size, and a steep bias: most pages are not read, the winners stand."""
    rng = RNG(8)
    q, k, v = (spikes(rng, (2000, 64), 0.1, 16, signed) for _ in range(3))
    k[100:1800] = np.clip(k[100:1800], -1, 1)
    for slope in (0.0, 0.001, 0.1):
        bias = (-slope * np.arange(256, dtype=np.float32))[None]
        given_: dict[str, Any] = {"heads": 1, "scale": np.ones(1, np.float32), "winners": 3}
        expected = reference.attend(q, k, v, unit=1 / 16, bias=bias, **given_)
        for path in PATHS:
            computed = kernels.attend(
                q, k, v, levels=16, unit=1 / 16, signed=signed, bias=bias, path=path, **given_
            )
            np.testing.assert_allclose(computed, expected, atol=1e-6)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("neuron", "given_"),
    [
        (NILIF(4), {"levels": 4, "decay": 0.5}),
        (ILIF(16, 0.9), {"levels": 16, "decay": 0.9}),
        (LIF(0.5, 0.7, "soft"), BINARY),
        (LIF(0.5, 0.7, "hard"), BINARY | {"reset": "hard"}),
        (LIF(0.5, 0.7, "delayed"), BINARY | {"reset": "delayed"}),
        (TLIF(0.5, 0.5, "soft", "fixed", 0.75), TERNARY),
        (TLIF(0.5, 0.5, "hard", "fixed", 0.75), TERNARY | {"reset": "hard"}),
        (DeadZone(64, 0.25, 0.3), DEAD_ZONE),
        (DeadZone(6, 0.75, 0.0, decay=0.9), {"levels": 6, "step": 0.75, "decay": 0.9} | SIGN),
        (DeadZone(64, 0.25, 0.3, gain=2.5), DEAD_ZONE | {"gain": 2.5}),
        (DeadZone(16, 0.1, 1.2, signed=False), DEAD_ZONE | {"levels": 16, "step": 0.1} | NO_SIGN),
    ],
)
def test_neurons_are_those_of_the_models(neuron: Any, given_: dict[str, Any], path: str) -> None:
    for steps in (1, 3):
        current = (3 * RNG(steps).standard_normal((steps, 997))).astype(np.float32)
        current[:, :7] = [0.5, 1.5, 2.5, -0.5, 0.0, 100.0, -100.0]  # halves go to even
        expected = neuron(torch.from_numpy(current)).detach().numpy() / neuron.unit
        computed = kernels.fire(current, path=path, **given_)
        assert (computed == np.round(expected)).all()
        assert (computed == reference.fire(current, **given_)).all()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("width", [1, 7, 128, 771])
def test_norms(width: int, path: str) -> None:
    rng = RNG(width)
    x, gain, shift = (rng.standard_normal(width).astype(np.float32) for _ in range(3))
    x += 3
    given_ = [torch.from_numpy(array) for array in (x, gain, shift)]
    layer = torch.nn.functional.layer_norm(given_[0], (width,), given_[1], given_[2]).numpy()
    rms = torch.nn.functional.rms_norm(given_[0], (width,), given_[1], 1e-5).numpy()
    np.testing.assert_allclose(kernels.norm(x, "layer", gain, shift, path=path), layer, atol=2e-6)
    np.testing.assert_allclose(kernels.norm(x, "rms", gain, path=path), rms, atol=2e-6)
    np.testing.assert_allclose(reference.norm(x, "layer", gain, shift), layer, atol=2e-6)
    assert (kernels.norm(x, "none", path=path) == x).all()


def test_the_choice_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(kernels.VARIABLE, raising=False)
    assert kernels.choose().name == PATHS[0]
    assert kernels.choose("portable").reason == "asked for"
    monkeypatch.setenv(kernels.VARIABLE, "portable")
    assert kernels.choose().name == "portable"
    with pytest.raises(EngineUnavailable, match="no such path; there are auto"):
        kernels.choose("sse9")


def test_without_the_extension_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_native", None)
    monkeypatch.setattr(kernels, "_missing", "No module named _native")
    with pytest.raises(EngineUnavailable, match="C\\+\\+20 compiler"):
        kernels.choose()


def test_wrong_shapes_are_refused() -> None:
    counts, matrix = np.ones((1, 4), np.int8), np.ones((5, 3), np.float32)
    with pytest.raises(ValueError, match="5 x 3 between widths 4 and 3"):
        kernels.product(counts, matrix)
    with pytest.raises(ValueError, match="int8 weights need a scale"):
        kernels.product(counts, np.ones((4, 3), np.int8))
    with pytest.raises(ValueError, match="32 bytes a row for each 64 scales"):
        kernels.product(counts, np.ones((4, 32), np.uint8), np.ones(65, np.float32))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("weights", ["int8", "int4"])
@pytest.mark.parametrize("tokens", [3, 40, 130])
@pytest.mark.parametrize("signed", [False, True])
def test_weights_packed_for_many_tokens_give_the_bits_of_each_alone(
    tokens: int, weights: str, path: str, signed: bool
) -> None:
    """They are packed for 130 tokens that all fire; not for 40 that half fire, nor for 3."""
    rng = RNG(4)
    density = 1.0 if tokens == 130 else 0.5
    counts = spikes(rng, (tokens, 70), density, 64 if signed else 16, signed)
    matrix = rng.integers(-7, 8, (70, 200)).astype(np.int8)
    scale = rng.random(200).astype(np.float32)
    if weights == "int4":
        matrix = pack_int4(matrix)
    together = kernels.product(counts, matrix, scale, unit=0.25, path=path)
    alone = [
        kernels.product(counts[[t]], matrix, scale, unit=0.25, path=path) for t in range(tokens)
    ]
    assert (together == np.concatenate(alone)).all()
