"""What all kernels share: sizes of tiles, memory for outputs, operators, small functions in Triton.

Sums and products are not fused (``enable_fp_fusion=False``), so that scores and membranes round as
PyTorch's do: an edge at its threshold, or a tie, is decided alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

INTERPRETED: bool = triton.knobs.runtime.interpret
"""Whether kernels run in the interpreter; read once, as Triton does."""
OPTIONS: dict[str, Any] = {"enable_fp_fusion": False}


class Tile(NamedTuple):
    """Rows and columns of one step, and how it is launched."""

    rows: int
    columns: int
    warps: int
    stages: int

    @property
    def options(self) -> dict[str, Any]:
        return {"num_warps": self.warps, "num_stages": self.stages, **OPTIONS}


INTERPRETED_TILE = Tile(16, 16, 4, 1)


def tile(half: Tile, full: Tile, dtype: torch.dtype) -> Tile:
    """``half`` for operands of two bytes, ``full`` for float32, small ones for the interpreter."""
    if INTERPRETED:
        return INTERPRETED_TILE
    return full if dtype == torch.float32 else half


def padded(width: int) -> int:
    """``width`` as a power of two that a product of tiles takes."""
    return max(16, triton.next_power_of_2(width))


def empty(like: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
    """Memory for an output, of any content: a kernel writes all of it."""
    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device)


def operator(
    name: str,
    schema: str,
    run: Callable[..., Any],
    fake: Callable[..., Any],
    backward: Callable[..., Any] | None = None,
    save: Callable[..., Any] | None = None,
) -> Any:
    """The operator ``spikeformers::name``; ``fake`` gives outputs of the right shape and type."""
    made = torch.library.custom_op(f"spikeformers::{name}", run, mutates_args=(), schema=schema)
    made.register_fake(fake)
    if backward is not None:
        made.register_autograd(backward, setup_context=save)
    return made


@triton.jit
def dot(a, b, WIDE: tl.constexpr):
    """``a @ b`` in float32. WIDE: the interpreter multiplies no bfloat16, so it widens first."""
    if WIDE:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    else:
        return tl.dot(a, b, input_precision="tf32x3")


@triton.jit
def rint(x):
    """The nearest integer, halves to even, of numbers below 2^22; 1.5 * 2^23 has no fraction."""
    return (x + 12582912.0) - 12582912.0


@triton.jit
def read_rows(BASE, rows, columns, height, width):
    """Tile of a matrix ``[height, width]``, zeros beyond its edges."""
    inside = (rows < height)[:, None] & (columns < width)[None, :]
    return tl.load(BASE + rows[:, None] * width + columns[None, :], mask=inside, other=0.0)


@triton.jit
def write_rows(BASE, values, rows, columns, height, width):
    """Store a tile into a matrix ``[height, width]``, what is within its edges."""
    inside = (rows < height)[:, None] & (columns < width)[None, :]
    at = BASE + rows[:, None] * width + columns[None, :]
    tl.store(at, values.to(BASE.dtype.element_ty), mask=inside)


@triton.jit
def visible(i, j, MASK, queries, keys, MASKED: tl.constexpr, CAUSAL: tl.constexpr):
    """Which keys j the queries i may see; the last query is at the last key.

    MASKED: 1 for a mask of keys, 2 for one of pairs.
    """
    seen = (i < queries) & (j < keys)
    if CAUSAL:
        seen = seen & (j <= i + (keys - queries))
    if MASKED == 1:
        seen = seen & (tl.load(MASK + j, mask=j < keys, other=0) != 0)
    if MASKED == 2:
        seen = seen & (tl.load(MASK + i.to(tl.int64) * keys + j, mask=seen, other=0) != 0)
    return seen


@triton.jit
def first_mask(MASK, b, queries, keys, MASKED: tl.constexpr):
    """Where the mask of sequence b starts."""
    return MASK + b.to(tl.int64) * keys * (queries if MASKED == 2 else 1)


@triton.jit
def diagonals(square, SIZE: tl.constexpr):
    """Sums of a square tile along its diagonals, by column less row.

    Returns those of 0 ... SIZE - 1, and those of -SIZE ... -1.
    """
    r = tl.arange(0, SIZE)[:, None]
    c = tl.arange(0, SIZE)[None, :]
    turned = tl.gather(square, (r + c) % SIZE, 1)
    right = (r + c) < SIZE
    upper = tl.sum(tl.where(right, turned, 0.0), 0)
    return upper, tl.sum(tl.where(right, 0.0, turned), 0)


def mask_bytes(mask: Tensor | None, otherwise: Tensor) -> Tensor:
    """A bool mask as bytes; ``otherwise``, which no kernel reads, without one."""
    return otherwise if mask is None else mask.contiguous().view(torch.uint8)


def pair_flags(line: Tensor | None, mask: Tensor | None, causal: bool) -> dict[str, Any]:
    """Constants of kernels over pairs of a query and a key."""
    return {
        "BIASED": line is not None,
        "MASKED": 0 if mask is None else mask.dim() - 1,
        "CAUSAL": causal,
        "WIDE": INTERPRETED,
    }


class Diagonals(NamedTuple):
    """The diagonals of tiles of a matrix T x J, from the lowest block to the highest in use."""

    size: int
    row_blocks: int
    column_blocks: int
    number: int
    """Diagonals of tiles; number a has column block less row block ``a - row_blocks + 1``."""

    @classmethod
    def of(cls, size: int, queries: int, keys: int, causal: bool) -> Diagonals:
        row_blocks, column_blocks = triton.cdiv(queries, size), triton.cdiv(keys, size)
        highest = column_blocks - 1
        if causal:
            highest = min(highest, (size - 1 + keys - queries) // size)
        return cls(size, row_blocks, column_blocks, row_blocks + highest)

    def line(self, parts: Tensor, queries: int, keys: int) -> Tensor:
        """``[H, T + J - 1]`` of sums of diagonals ``[H, number, 2, size]``: upper, then lower."""
        upper, lower = (part.flatten(-2) for part in parts.unbind(-2))
        whole = upper.new_zeros(len(parts), (self.row_blocks + self.column_blocks) * self.size)
        end = self.number * self.size
        whole[:, self.size : self.size + end] += upper
        whole[:, :end] += lower
        first = self.row_blocks * self.size - queries + 1
        return whole[:, first : first + queries + keys - 1]
