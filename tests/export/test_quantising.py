from __future__ import annotations

import numpy as np

from spikeformers.export.quantising import int4, int8, pack_int4


def unpacked(packed: np.ndarray, outputs: int) -> np.ndarray:
    """One weight at a time, as the layout is told in words."""
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
