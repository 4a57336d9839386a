"""The kernels in plain NumPy, a few lines each: the definition that C++ is held to.

What they take is bounded as it is there (cpp/limits.hpp), where it matters for the answer: counts
are int8 and no larger than 64, and a neuron has the resets of its kind.

Shapes: S simulation steps, T tokens, H heads, K per head. Whole numbers are exact; sums of reals
are taken in double, so a kernel may differ from them by float rounding.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_LEVELS = 64
RESETS = {"binary": ("soft", "hard", "delayed"), "integer": ("soft",), "ternary": ("soft", "hard")}


def product(
    counts: NDArray[np.int8],
    matrix: NDArray[Any],
    scale: NDArray[np.float32] | None = None,
    bias: NDArray[np.float32] | None = None,
    unit: float = 1.0,
) -> NDArray[np.float64]:
    """``unit * counts @ matrix (* scale) + bias``. Raises ValueError for counts beyond 64."""
    if counts.dtype != np.int8 or (np.abs(counts.astype(int)) > MAX_LEVELS).any():
        raise ValueError(f"counts are int8, within -{MAX_LEVELS} to {MAX_LEVELS}")
    y = counts.astype(np.float64) @ matrix.astype(np.float64) * unit
    y = y if scale is None else y * scale
    return y if bias is None else y + bias


def fire(
    current: NDArray[np.float32],
    spike_type: str = "integer",
    levels: int = 1,
    unit: float = 1.0,
    decay: float = 0.0,
    threshold: float = 1.0,
    ratio: float = 0.5,
    reset: str = "soft",
    step: float = 1.0,
    dead_zone: float = 0.0,
    gain: float = 1.0,
    signed: bool = False,
) -> NDArray[np.int8]:
    """Counts of one neuron layer, ``[S, n]``; `spikeformers.neurons` has the equations.

    Raises ValueError for levels that an int8 count does not hold, and resets that it does not have.
    """
    if not 1 <= levels <= MAX_LEVELS:
        raise ValueError(f"levels={levels}: levels must be 1 to {MAX_LEVELS}")
    if reset not in RESETS[spike_type]:
        raise ValueError(f"{spike_type} neurons reset {' or '.join(RESETS[spike_type])}")
    carry = np.zeros_like(current[0])
    steps = []
    for now in current:
        u = carry + now
        if spike_type == "integer":
            size = (np.abs(u) if signed else u) * np.float32(gain)
            beyond = np.maximum(size - np.float32(dead_zone), 0)
            count = np.minimum(np.round(beyond / np.float32(step)), levels)
            count = np.copysign(count, u) if signed else count
        elif spike_type == "binary":
            count = (u - np.float32(threshold) >= 0).astype(u.dtype)
        else:
            x = u / np.float32(unit)
            count = np.sign(x) * (np.abs(x) >= np.float32(ratio))
        worth = np.float32(threshold if spike_type == "binary" else unit)
        worth = np.float32(step) / np.float32(gain) if spike_type == "integer" else worth
        if reset == "hard":
            carry = np.float32(decay) * u * (count == 0)
        elif reset == "delayed":
            carry = np.float32(decay) * u - worth * count
        else:
            carry = np.float32(decay) * (u - worth * count)
        steps.append(count.astype(np.int8))
    return np.stack(steps)


def norm(
    x: NDArray[np.float32],
    kind: str,
    gain: NDArray[np.float32] | None = None,
    shift: NDArray[np.float32] | None = None,
    eps: float = 1e-5,
) -> NDArray[np.float64]:
    """LayerNorm, RMSNorm, or nothing, of one row."""
    y = x.astype(np.float64)
    if kind == "none":
        return y
    if kind == "layer":
        y = y - y.mean()
    y = y / np.sqrt((y * y).mean() + eps) * gain
    return y + shift if kind == "layer" and shift is not None else y


def scores(
    q: NDArray[np.int8],
    k: NDArray[np.int8],
    unit: float,
    scale: np.float32,
    bias: NDArray[np.float32] | None,
) -> NDArray[np.float32]:
    """Causal scores of one head, ``[T, T]``, each operation rounded to float as PyTorch does.

    ``(q k^T as an integer * unit) * scale + bias``; -inf where a query may not see the key.
    """
    whole = q.astype(np.int64) @ k.astype(np.int64).T
    scored = whole.astype(np.float32) * np.float32(unit * unit) * scale
    tokens = len(q)
    distance = np.arange(tokens)[:, None] - np.arange(tokens)[None]
    if bias is not None:
        scored = scored + bias[np.clip(distance, 0, len(bias) - 1)]
    return np.where(distance >= 0, scored, np.float32(-np.inf))


def weights(
    scored: NDArray[np.float32], rule: str, winners: int = 1, weight: float = 1.0, digits: int = 1
) -> NDArray[np.float64]:
    """Weights of the keys, ``[T, T]``, from masked scores."""
    rows = np.zeros(scored.shape)
    if rule == "ssa":
        return np.where(np.isfinite(scored), scored, 0).astype(np.float64)
    for row, score in zip(rows, scored.astype(np.float64), strict=True):
        if rule == "winners":  # a stable sort: the lowest index wins a tie
            best = np.argsort(-score, kind="stable")[:winners]
            row[best[np.isfinite(score[best])]] = weight
        elif rule == "softmax":
            row[:] = np.exp(score - score.max())
            row /= row.sum()
        elif rule == "powers":
            below = (score.max() - score) / np.log(2)
            heard = below <= 8
            mantissa, exponent = np.frexp(_half_to(below[heard], digits).sum())
            row[heard] = _half_to(below[heard] + exponent + 2 * mantissa - 2, digits)
        else:
            ordered = -np.sort(-score[np.isfinite(score)])
            total = np.cumsum(ordered)
            rank = np.arange(1, len(ordered) + 1)
            support = int((1 + rank * ordered > total).sum())
            row[:] = np.maximum(score - (total[support - 1] - 1) / support, 0)
    return rows


def _half_to(octaves: NDArray[np.float64], digits: int) -> NDArray[np.float64]:
    """2^-octaves to so many binary digits, linear between powers of two."""
    steps = 2 ** (digits - 1)
    rounded = np.rint(octaves * steps) / steps
    least = np.ceil(rounded)
    half: NDArray[np.float64] = np.exp2(-least) * (1 + least - rounded)
    return half


def attend(
    q: NDArray[np.int8],
    k: NDArray[np.int8],
    v: NDArray[np.int8],
    *,
    heads: int,
    scale: NDArray[np.float32],
    rule: str = "winners",
    winners: int = 1,
    weight: float = 1.0,
    digits: int = 1,
    bias: NDArray[np.float32] | None = None,
    unit: float = 1.0,
) -> NDArray[np.float64]:
    """Causal attention over counts, all heads side by side, ``[T, H * K]``."""
    parts = np.split(np.arange(q.shape[1]), heads)
    out = np.zeros(q.shape)
    for head, part in enumerate(parts):
        line = None if bias is None else bias[head]
        scored = scores(q[:, part], k[:, part], unit, scale[head], line)
        out[:, part] = weights(scored, rule, winners, weight, digits) @ (v[:, part] * unit)
    return out


def edges(
    q: NDArray[np.int8],
    k: NDArray[np.int8],
    v: NDArray[np.int8],
    *,
    heads: int,
    scale: NDArray[np.float32],
    threshold: NDArray[np.float32],
    decay: float = 0.9,
    bias: NDArray[np.float32] | None = None,
) -> NDArray[np.float64]:
    """SFSA over binary spikes ``[S, T, H * K]``: every edge a LIF neuron with delayed reset."""
    out = np.zeros(q.shape)
    for head, part in enumerate(np.split(np.arange(q.shape[2]), heads)):
        line = None if bias is None else bias[head]
        carry = np.float32(0)
        for s in range(len(q)):
            current = scores(q[s][:, part], k[s][:, part], 1.0, scale[head], line)
            u = np.where(np.isfinite(current), current, np.float32(0)) + carry  # a masked one: 0
            fired = u >= threshold[head]
            carry = np.float32(decay) * u - threshold[head] * fired
            out[s][:, part] = np.tril(fired) @ v[s][:, part].astype(np.float64)
    return out


def pair(
    x: NDArray[np.float32],
    value: NDArray[np.float32],
    *,
    largest: int,
    sign: bool = True,
    counts: bool = False,
) -> NDArray[np.float32]:
    """``clip(round(x / value), -largest or 0, largest)``, halves away from zero, times value."""
    chosen = np.where(x >= 0, value[0], value[-1])
    u = x / chosen
    count = np.floor(np.abs(u) + np.float32(0.5)) * np.sign(u)
    count = np.clip(count, -largest if sign else 0, largest)
    return count if counts else count * chosen


def token_counts(
    x: NDArray[np.float32],
    steps: int,
    reach: float = 8.0,
    dead_zone: float = 0.0,
    power_of_two: bool = False,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Counts ``[T, n]`` and units ``[T]`` of rows ``x``; `spikeformers.neurons.token_if` has why.

    A unit below the smallest normal float32 is 0, and its row silent.
    """
    largest = np.float32(2 ** (steps - 1) - 1)
    size = np.abs(x)
    mean = (size.sum(1, dtype=np.float64) / x.shape[1]).astype(np.float32)
    with np.errstate(over="ignore"):
        unit = np.minimum(size.max(1), np.float32(reach) * mean) / largest
    unit[unit < np.float32(2.0**-126)] = 0
    if power_of_two:
        mantissa, exponent = np.frexp(unit)
        whole = np.ldexp(np.float32(1), exponent - (mantissa == 0.5)).astype(np.float32)
        unit = np.where(unit > 0, whole, np.float32(0))
    u = size / np.where(unit > 0, unit, np.float32(1))[:, None]
    fired = (unit > 0)[:, None] & (size >= (np.float32(dead_zone) * mean)[:, None])
    count = np.floor(u + np.float32(0.5)) * fired * np.sign(x)
    return count.astype(np.int32), unit


def count_product(
    x: NDArray[np.float32],
    matrix: NDArray[Any],
    scale: NDArray[np.float32] | None = None,
    bias: NDArray[np.float32] | None = None,
    *,
    steps: int = 8,
    reach: float = 8.0,
    dead_zone: float = 0.0,
    power_of_two: bool = False,
) -> NDArray[np.float32]:
    """``counts @ matrix * (scale * unit) + bias`` of int8 weights, bit for bit.

    The sum is a whole number; what follows is rounded to float32 in this order. Of float32 weights
    (no ``scale``) the sum is taken in double.
    """
    count, unit = token_counts(x, steps, reach, dead_zone, power_of_two)
    if scale is None:
        y = (count.astype(np.float64) @ matrix.astype(np.float64)).astype(np.float32) * unit[
            :, None
        ]
    else:
        whole = count.astype(np.int64) @ matrix.astype(np.int64)
        y = whole.astype(np.float32) * (scale[None] * unit[:, None])
    return y if bias is None else y + bias


def grouped_product(
    x: NDArray[np.float32],
    whole: NDArray[np.uint8],
    scale: NDArray[np.float32],
    minimum: NDArray[np.float32],
    bias: NDArray[np.float32] | None = None,
    *,
    steps: int = 8,
    reach: float = 8.0,
    dead_zone: float = 0.0,
    power_of_two: bool = False,
) -> NDArray[np.float32]:
    """Counts times weights of 4 bits in groups of 32 inputs, bit for bit.

        y = unit * sum_g (scale[g] * sum_i s_i q_i + minimum[g] * sum_i s_i) + bias

    ``whole`` ``[in, out]`` are q, 0 to 15; scale and minimum ``[groups, out]``. The inner sums are
    whole numbers; what follows is rounded to float32 in this order, groups ascending.
    """
    count, unit = token_counts(x, steps, reach, dead_zone, power_of_two)
    y = np.zeros((len(x), whole.shape[1]), np.float32)
    for group in range(len(scale)):
        part = slice(32 * group, 32 * group + 32)
        sums = count[:, part].astype(np.int64) @ whole[part].astype(np.int64)
        total = count[:, part].sum(1, dtype=np.int64).astype(np.float32)[:, None]
        y = y + (scale[group] * sums.astype(np.float32) + minimum[group] * total)
    y = y * unit[:, None]
    return y if bias is None else y + bias


def activate(x: NDArray[np.float32], kind: str) -> NDArray[np.float64]:
    """The activations of Transformers, by the engine's names."""
    y = x.astype(np.float64)
    if kind == "relu":
        return np.maximum(y, 0)
    if kind == "gelu_erf":
        return y * 0.5 * (1 + np.vectorize(math.erf)(y / math.sqrt(2)))
    inner = {
        "silu": y,
        "quick_gelu": 1.702 * y,
        "gelu_tanh": 2 * math.sqrt(2 / math.pi) * (y + 0.044715 * y**3),
    }[kind]
    with np.errstate(over="ignore"):
        return y / (1 + np.exp(-inner))


def mix(
    q: NDArray[np.float32],
    k: NDArray[np.float32],
    v: NDArray[np.float32],
    *,
    heads: int,
    kv_heads: int,
    scale: NDArray[np.float32],
    rule: str = "softmax",
    winners: int = 1,
    weight: float = 1.0,
    digits: int = 1,
    window: int = 0,
) -> NDArray[np.float64]:
    """Causal attention of reals; query heads share key-value heads in groups.

    A query sees its own key and the ``window - 1`` before it; all with 0.
    """
    k, v = (operand.reshape(len(operand), kv_heads, -1) for operand in (k, v))
    out = np.zeros(q.shape)
    seen = np.tril(np.ones((len(q), len(q)), bool))
    if window:
        seen &= ~np.tril(seen, -window)
    for head, part in enumerate(np.split(np.arange(q.shape[1]), heads)):
        group = head * kv_heads // heads
        exact = q[:, part].astype(np.float64) @ k[:, group].T.astype(np.float64)
        scored = np.where(seen, exact.astype(np.float32) * scale[head], np.float32(-np.inf))
        shares = weights(scored.astype(np.float32), rule, winners, weight, digits)
        out[:, part] = shares @ v[:, group]
    return out
