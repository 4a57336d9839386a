"""Matrices of integers, with a scale per channel, or a scale and a minimum per group.

    int8, int4    w = scale[o] * q                   symmetric, rounded to the nearest
    grouped       w = scale[g, o] * q + minimum[g, o], q from 0 to 15, g of 32 inputs each

Grouped weights are those of llama.cpp's Q4_1 but for how scale and minimum are found: by least
squares, in which an input weighs as much as its second moment where that is given; and for their
16 bits, which are the upper halves of float32 (bfloat16), so that reading them is a shift.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 64  # outputs that lie together in 32 bytes
SHARES = np.linspace(0.5, 1.0, 11, dtype=np.float32)
GROUP = 32  # inputs that share a scale and a minimum, of each output
STARTS = (1.0, 0.9, 0.8)  # shares of a group's range from which least squares begin
ROUNDS = 3  # of rounding to whole numbers, then fitting scale and minimum to them
COLUMNS = 2048  # that are quantised at a time


def int8(real: NDArray[np.float32], axis: int = 0) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Weights and scales; the largest of each channel is 127. ``axis`` is summed over."""
    most = np.abs(real).max(axis)
    scale = np.where(most > 0, most / np.float32(127), 1).astype(np.float32)
    spread = scale if axis == 0 else scale[:, None]
    return np.clip(np.rint(real / spread), -127, 127).astype(np.int8), scale


def int4(real: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Packed weights -7 to 7 of ``[in, out]``, and scales ``[out]``.

    Of eleven scales for a column, from half of what its largest weight needs up to all of it,
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
    return pack_nibbles((whole + 8).astype(np.uint8), 8)


def pack_nibbles(whole: NDArray[np.uint8], filler: int = 0) -> NDArray[np.uint8]:
    """The same for numbers from 0 to 15; ``filler`` pads a block with too few outputs."""
    inputs, outputs = whole.shape
    blocks = -(-outputs // BLOCK)
    padded = np.full((inputs, blocks * BLOCK), filler, np.uint8)
    padded[:, :outputs] = whole
    halves: Any = padded.reshape(inputs, blocks, 2, BLOCK // 2)
    packed: NDArray[np.uint8] = halves[:, :, 0] | halves[:, :, 1] << 4
    return packed.reshape(inputs, blocks * BLOCK // 2)


Grouped = tuple[NDArray[np.uint8], NDArray[np.uint16], NDArray[np.uint16]]
"""Packed weights ``[in, 32 * blocks]``, scales and minima ``[groups, out]`` (upper halves)."""


def int4_grouped(real: NDArray[np.float32], moments: NDArray[np.float32] | None = None) -> Grouped:
    """Weights ``[in, out]`` from 0 to 15 with a scale and a minimum for 32 inputs and an output.

    ``moments`` ``[in]`` are mean squares of the inputs: the error that is made least is then that
    of the product, as far as inputs do not depend on each other. Raises ValueError for moments that
    are not as many, or negative, or not finite.
    """
    inputs, outputs = real.shape
    groups = -(-inputs // GROUP)
    weigh = np.ones(inputs, np.float32) if moments is None else np.asarray(moments, np.float32)
    if weigh.shape != (inputs,) or not np.isfinite(weigh).all() or (weigh < 0).any():
        raise ValueError(f"moments must be {inputs} finite numbers from 0")
    padded = np.zeros((groups * GROUP, 1), np.float32)
    padded[:inputs, 0] = np.maximum(weigh, 1e-6 * weigh.max(initial=0)) if weigh.any() else 1
    weight = padded.reshape(groups, GROUP, 1)
    weight = weight / np.maximum(weight.max(1, keepdims=True), np.float32(1e-30))
    fits = []
    for first in range(0, outputs, COLUMNS):
        part = np.zeros((groups * GROUP, min(COLUMNS, outputs - first)), np.float32)
        part[:inputs] = real[:, first : first + COLUMNS]
        # Padding rows have no weight; they take a value of their group, to keep its range.
        part[inputs:] = part[(groups - 1) * GROUP]
        fits.append(_fitted(part.reshape(groups, GROUP, -1), weight))
    whole, scale, minimum = (np.concatenate(arrays, -1) for arrays in zip(*fits, strict=True))
    whole = whole.reshape(groups * GROUP, outputs)[:inputs]
    return pack_nibbles(whole), upper_half(scale), upper_half(minimum)


def _fitted(
    real: NDArray[np.float32], weight: NDArray[np.float32]
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
    """Integers ``[groups, 32, out]``, scale and minimum ``[groups, out]`` of least error."""
    low, high = real.min(1), real.max(1)
    total, mean = weight.sum(1), (weight * real).sum(1)
    best: Any = None
    for share in STARTS:
        middle, half = (low + high) / 2, (high - low) * np.float32(share / 2)
        scale, minimum = half * np.float32(2 / 15), middle - half
        for last in range(ROUNDS + 1):
            scale, minimum = (from_upper_half(upper_half(each)) for each in (scale, minimum))
            q = _nearest(real, scale, minimum)
            error = (weight * (q * scale[:, None] + minimum[:, None] - real) ** 2).sum(1)
            if best is None:
                best = [q.astype(np.uint8), scale, minimum, error]
            better = error < best[3]
            if better.any():
                np.copyto(best[0], q.astype(np.uint8), where=better[:, None])
                for kept, new in zip(best[1:], (scale, minimum, error), strict=True):
                    np.copyto(kept, new, where=better)
            if last == ROUNDS:
                break
            # Of whole numbers as they are, the scale and the minimum of least squares.
            weighed = weight * q
            sum_q, sum_qq, sum_qx = weighed.sum(1), (weighed * q).sum(1), (weighed * real).sum(1)
            spread = total * sum_qq - sum_q**2
            fits = spread > 1e-6 * total * np.maximum(sum_qq, 1e-30)
            slope = np.where(
                fits, (total * sum_qx - sum_q * mean) / np.where(fits, spread, 1), scale
            )
            fits &= slope > 0
            scale = np.where(fits, slope, scale).astype(np.float32)
            minimum = np.where(fits, (mean - scale * sum_q) / total, minimum).astype(np.float32)
    return best[0], best[1], best[2]


def _nearest(
    real: NDArray[np.float32], scale: NDArray[np.float32], minimum: NDArray[np.float32]
) -> NDArray[np.float32]:
    step = np.where(scale > 0, scale, 1)[:, None]
    q: NDArray[np.float32] = np.clip(np.rint((real - minimum[:, None]) / step), 0, 15)
    return q * (scale > 0)[:, None]


def upper_half(real: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The nearest bfloat16, halves to even, of finite numbers."""
    bits = np.ascontiguousarray(real, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def from_upper_half(half: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The float32 that a bfloat16 stands for."""
    return (half.astype(np.uint32) << 16).view(np.float32)


def grouped_reals(grouped: Grouped, inputs: int) -> NDArray[np.float32]:
    """The weights ``[in, out]`` that grouped ones stand for, rounded as the engine does."""
    packed, scale, minimum = grouped
    outputs = scale.shape[1]
    halves = packed.reshape(inputs, -1, BLOCK // 2)
    whole = np.stack((halves & 15, halves >> 4), 2).reshape(inputs, -1)[:, :outputs]
    group = np.arange(inputs) // GROUP
    real: NDArray[np.float32] = from_upper_half(scale)[group] * whole.astype(np.float32)
    return real + from_upper_half(minimum)[group]
