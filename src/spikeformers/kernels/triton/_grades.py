"""Weights by powers of two inside a kernel; `spikeformers.attention.power_of_two` defines them.

Octaves are counted in steps of 2^(1 - DIGITS), from the winner down. FURTHEST and SILENT are
numbers of octaves.
"""

from __future__ import annotations

import triton
import triton.language as tl

from spikeformers.kernels.triton._launch import rint


@triton.jit
def octaves_of(scores, best, DIGITS: tl.constexpr, FURTHEST: tl.constexpr, SILENT: tl.constexpr):
    """Steps by which scores are above their row's best, at most 0; silent beyond the furthest."""
    steps: tl.constexpr = 2 ** (DIGITS - 1)
    octaves = (scores - best) * (1.4426950408889634 * steps)
    return tl.where(octaves > -1.00000011920929 * FURTHEST * steps, octaves, -SILENT * steps)


@triton.jit
def power_of(octaves, DIGITS: tl.constexpr, SILENT: tl.constexpr):
    """2^octaves to DIGITS binary digits: the bits of a float; 0 of what is silent."""
    steps: tl.constexpr = 2 ** (DIGITS - 1)
    rounded = rint(octaves).to(tl.int32)
    bits = (127 << 23) + (rounded << (24 - DIGITS))
    return tl.where(rounded > (1 - SILENT) * steps, bits.to(tl.float32, bitcast=True), 0.0)


@triton.jit
def place_of(total):
    """The logarithm of a row's sum, linear between powers of two; 0 where nothing is heard."""
    octaves = (total.to(tl.int32, bitcast=True) - (127 << 23)).to(tl.float32) * (1.0 / 8388608)
    return tl.where(total > 0, octaves, 0.0)
