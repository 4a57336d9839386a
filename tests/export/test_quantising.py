from __future__ import annotations

import numpy as np
import pytest

from spikeformers.export.quantising import grouped_reals, int4, int4_grouped, int8, pack_int4


def unpacked(packed: np.ndarray, outputs: int) -> np.ndarray:
    """One weight at a time, as the layout is described in words."""
    whole = np.zeros((len(packed), outputs), np.int64)
    for o in range(outputs):
        byte = packed[:, o // 64 * 32 + o % 32]
        whole[:, o] = (byte & 15 if o % 64 < 32 else byte >> 4).astype(np.int64) - 8
    return whole


def test_int8_by_hand() -> None:
    whole, scale = int8(np.array([[1.27, 0.0], [-0.3, 0.0]], np.float32))
    np.testing.assert_allclose(scale, [0.01, 1.0], rtol=1e-6)
    assert whole.tolist() == [[127, 0], [-30, 0]]
    rows, scale = int8(np.array([[1.27, 0.0], [-0.5, 0.25]], np.float32), axis=1)
    assert rows.tolist() == [[127, 0], [-127, 64]]  # 63.5 goes to even


def test_packing_keeps_each_weight_in_its_place() -> None:
    whole = np.random.default_rng(0).integers(-8, 8, (5, 150)).astype(np.int8)
    packed = pack_int4(whole)
    assert packed.shape == (5, 96)  # 150 outputs are three blocks
    assert (unpacked(packed, 150) == whole).all()
    assert packed[0, 0] == (whole[0, 0] + 8) + 16 * (whole[0, 32] + 8)


def test_int4_clips_where_that_is_nearer() -> None:
    # Forty weights of 0.45 and one of 7: at full scale, 1, the forty are lost, 40 * 0.45^2 = 8.1;
    # at 0.8 the error is 40 * 0.35^2 + 1.4^2 = 6.86, at 0.75 40 * 0.3^2 + 1.75^2 = 6.66, and at 0.7
    # 40 * 0.25^2 + 2.1^2 = 6.91.
    column = np.array([0.45] * 40 + [7.0], np.float32)[:, None]
    packed, scale = int4(column)
    assert scale == 0.75
    assert (unpacked(packed, 1)[:, 0] == [1] * 40 + [7]).all()
    rng = np.random.default_rng(1)
    real = rng.standard_normal((400, 9)).astype(np.float32)
    real[:, 4] = 0
    packed, scale = int4(real)
    back = unpacked(packed, 9) * scale
    full = np.abs(real).max(0) / 7
    full[4] = 1
    plain = np.rint(real / full) * full
    assert (back[:, 4] == 0).all()
    others = [o for o in range(9) if o != 4]
    assert (((back - real) ** 2).sum(0)[others] < ((plain - real) ** 2).sum(0)[others]).all()


def outliers(seed: int, inputs: int, outputs: int) -> np.ndarray:
    """Weights of which one in 200 is ten times as large."""
    rng = np.random.default_rng(seed)
    real = rng.standard_normal((inputs, outputs)) * np.where(rng.random((inputs, 1)) < 0.05, 4, 1)
    real *= np.where(rng.random(real.shape) < 0.005, 10, 1)
    return (real + 0.3).astype(np.float32)


def q4_1(real: np.ndarray) -> np.ndarray:
    """The weights that llama.cpp's Q4_1 stands for: smallest and largest of 32 inputs, in fp16."""
    groups = real.reshape(-1, 32, real.shape[1])
    low, high = groups.min(1, keepdims=True), groups.max(1, keepdims=True)
    scale = ((high - low) / 15).astype(np.float16).astype(np.float32)
    low = low.astype(np.float16).astype(np.float32)
    q = np.clip(np.rint((groups - low) / np.where(scale > 0, scale, 1)), 0, 15)
    restored: np.ndarray = (q * scale + low).reshape(real.shape)
    return restored


def test_groups_hold_sixteen_values_exactly() -> None:
    """Sixteen equal steps are what a group says, here in numbers that bfloat16 holds."""
    real = np.tile(np.arange(16, dtype=np.float32) / 4 - 2, 4)[:, None].repeat(3, 1)
    grouped = int4_grouped(real)
    assert (grouped_reals(grouped, 64) == real).all()
    assert grouped[0].shape == (64, 32)
    assert grouped[1].shape == grouped[2].shape == (2, 3)
    constant = np.full((40, 5), -3.0, np.float32)
    assert (grouped_reals(int4_grouped(constant), 40) == constant).all()


def test_groups_err_less_than_q4_1_and_than_columns() -> None:
    real = outliers(0, 256, 100)
    error = ((grouped_reals(int4_grouped(real), 256) - real) ** 2).mean()
    assert error < 0.9 * ((q4_1(real) - real) ** 2).mean()
    packed, scale = int4(real)
    halves = packed.reshape(256, -1, 32)
    whole = np.stack((halves & 15, halves >> 4), 2).reshape(256, -1)[:, :100].astype(np.float32) - 8
    assert error < 0.2 * ((whole * scale - real) ** 2).mean()


def test_second_moments_move_the_error_to_inputs_that_are_small_on_average() -> None:
    """The product errs less than with equal weights, and the weights themselves more."""
    rng = np.random.default_rng(3)
    real, size = outliers(1, 250, 80), np.exp(2 * rng.standard_normal(250)).astype(np.float32)
    x = rng.standard_normal((400, 250)).astype(np.float32) * size
    plain = grouped_reals(int4_grouped(real), 250) - real
    weighed = grouped_reals(int4_grouped(real, size**2), 250) - real
    assert ((x @ weighed) ** 2).mean() < 0.8 * ((x @ plain) ** 2).mean()
    assert (weighed**2).mean() > (plain**2).mean()


@pytest.mark.parametrize("moments", [np.ones(3), -np.ones(40), np.full(40, np.nan)])
def test_moments_that_there_are_not_are_refused(moments: np.ndarray) -> None:
    with pytest.raises(ValueError, match="moments must be 40 finite numbers from 0"):
        int4_grouped(np.ones((40, 2), np.float32), moments)
