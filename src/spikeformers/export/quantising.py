"""Matrices in whole numbers, with a scale for each channel; symmetric, rounded to the nearest."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 64  # outputs that lie together in 32 bytes
SHARES = np.linspace(0.5, 1.0, 11, dtype=np.float32)


def int8(real: NDArray[np.float32], axis: int = 0) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Weights and scales; the largest of each channel is 127. ``axis`` is summed over."""
    most = np.abs(real).max(axis)
    scale = np.where(most > 0, most / np.float32(127), 1).astype(np.float32)
    spread = scale if axis == 0 else scale[:, None]
    return np.clip(np.rint(real / spread), -127, 127).astype(np.int8), scale


def int4(real: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Packed weights -7 to 7 of ``[in, out]``, and scales ``[out]``.

    Of eleven scales for a column, from half of what its largest weight asks for up to all of it,
    the one of least squared error: clipping a few large weights is worth finer steps for the rest.
    """
    most = np.abs(real).max(0)
    full = np.where(most > 0, most / np.float32(7), 1).astype(np.float32)
    least = np.full(real.shape[1], np.inf, np.float32)
    scale = full.copy()
    for share in SHARES:
        tried = full * share
        error = ((np.clip(np.rint(real / tried), -7, 7) * tried - real) ** 2).sum(0)
        better = error < least
        least[better], scale[better] = error[better], tried[better]
    return pack_int4(np.clip(np.rint(real / scale), -7, 7).astype(np.int8)), scale


def pack_int4(whole: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Weights ``[in, out]`` from -8 to 7, two a byte: ``[in, 32 * blocks of 64 outputs]``.

    Each is stored plus 8. The low halves of a block's 32 bytes are its first 32 outputs, the high
    halves its last 32, so that a vector is unpacked by one mask and one shift.
    """
    inputs, outputs = whole.shape
    blocks = -(-outputs // BLOCK)
    padded = np.full((inputs, blocks * BLOCK), 8, np.uint8)
    padded[:, :outputs] = (whole + 8).astype(np.uint8)
    halves: Any = padded.reshape(inputs, blocks, 2, BLOCK // 2)
    packed: NDArray[np.uint8] = halves[:, :, 0] | halves[:, :, 1] << 4
    return packed.reshape(inputs, blocks * BLOCK // 2)
