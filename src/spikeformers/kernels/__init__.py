"""Event-driven kernels in C++ (``cpp/``), chosen for the processor at run time; Triton's for GPUs.

    choose()                      which path runs, and why; SPIKEFORMERS_KERNELS forces one
    choose(device="cuda")         the same for tensors that train: triton, or torch's own kernels
    product, attend, fire, norm   one kernel by itself: what tests and benchmarks call
    edges, pair, activate, mix    the same, of BiSpikCLM and of converted models
    soft_cap                      the same, of logits
    token_counts, count_product   the same, of neurons whose threshold follows their token
    reference                     the same in plain NumPy, which they are tested against

All paths give the same bits: they add in the same order, and none fuses a product into a sum. The
engine runs whole models over these kernels in one call (`spikeformers.engine`).

Arguments are checked before a kernel runs: shapes, types, and that every value is within the range
of its arithmetic (cpp/limits.hpp). ValueError names the argument that is not; OverflowError means
that an intermediate value is not finite.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from spikeformers.errors import EngineUnavailable

if TYPE_CHECKING:
    from numpy.typing import NDArray

_native: ModuleType | None
_missing = ""
try:
    _native = importlib.import_module("spikeformers.kernels._native")
except ImportError as error:  # the package was installed without a compiler
    _native, _missing = None, str(error)

VARIABLE = "SPIKEFORMERS_KERNELS"
TENSOR_PATHS = ("triton", "torch")
"""Values of SPIKEFORMERS_KERNELS that are for tensors; the engine's own choice ignores them."""


@dataclass(frozen=True)
class Choice:
    """A path that runs here, why it was chosen, and why those before it were not."""

    name: str
    reason: str
    refused: dict[str, str]

    def __str__(self) -> str:
        text = f"{self.name} ({self.reason})"
        return text + "".join(f"; not {name}: {reason}" for name, reason in self.refused.items())


def native() -> ModuleType:
    """The extension module; EngineUnavailable explains how to get it if it was not built."""
    if _native is None:
        raise EngineUnavailable(
            f"the engine's kernels are not part of this installation ({_missing}). They need a "
            "C++20 compiler when the package is built: install one (g++ or clang++), then run "
            "pip install --force-reinstall --no-deps again, or take a wheel. Everything but the "
            "engine works without."
        )
    return _native


def choose(path: str | None = None, *, device: str | None = None, unsupported: str = "") -> Choice:
    """The path that runs: ``path``, else that of SPIKEFORMERS_KERNELS, else the fastest one here.

    Without ``device``, the engine's: compiled paths of this processor. With a torch device type
    such as "cuda", that of tensors in training: "triton" (`spikeformers.kernels.triton`) or "torch"
    (PyTorch's kernels, on a CPU always unless Triton is asked for); ``unsupported`` says why
    Triton's kernel cannot take this call, if it cannot.

    Raises EngineUnavailable for a path that cannot run here or that does not exist.
    """
    forced = path or os.environ.get(VARIABLE) or "auto"
    if device is not None:
        return _choose_for_tensors(forced, device, unsupported)
    paths = native().paths()
    if path is None and forced in TENSOR_PATHS:
        forced = "auto"
    refused: dict[str, str] = {}
    for name, runs, reason in paths:
        if forced == "auto" and runs:
            return Choice(name, reason, refused)
        if forced == name and runs:
            return Choice(name, "asked for", {})
        if forced in ("auto", name):
            refused[name] = reason
    if forced in refused:
        raise EngineUnavailable(
            f"kernels[{forced}]: {refused[forced]}. 'auto' takes the best that runs here."
        )
    names = ", ".join(["auto", *(name for name, _, _ in paths)])
    raise EngineUnavailable(f"kernels[{forced}]: no such path; there are {names}.")


def _choose_for_tensors(forced: str, device: str, unsupported: str) -> Choice:
    """Triton or torch; a path of the engine in SPIKEFORMERS_KERNELS leaves the choice open."""
    if forced == "torch":
        return Choice("torch", "asked for", {})
    if forced != "triton" and device != "cuda":
        return Choice("torch", f"Triton's kernels are for GPUs, not for {device}", {})
    from spikeformers.kernels.triton import refusal  # which imports torch

    reason = unsupported or refusal(device)
    if forced == "triton":
        if reason:
            raise EngineUnavailable(
                f"kernels[triton]: {reason}. 'torch' runs everywhere, 'auto' takes the best that "
                "runs here."
            )
        return Choice("triton", "asked for", {})
    if reason:
        return Choice("torch", "runs everywhere", {"triton": reason})
    return Choice("triton", "streams: memory grows with T, not with T x J", {})


def product(
    counts: NDArray[np.int8],
    matrix: NDArray[Any],
    scale: NDArray[np.float32] | None = None,
    bias: NDArray[np.float32] | None = None,
    unit: float = 1.0,
    *,
    path: str | None = None,
    threads: int = 1,
) -> NDArray[np.float32]:
    """``unit * counts @ matrix (* scale) + bias``, reading the rows of inputs that fired.

    ``counts`` ``[T, in]``, int8 within -64 to 64; ``matrix`` ``[in, out]``, float32, or int8 with a
    ``scale`` ``[out]``.
    """
    result, _ = native().product(
        counts, matrix, scale, bias, unit, choose(path).name, threads, repeats=1
    )
    return result


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
    spike_type: str = "integer",
    levels: int = 1,
    unit: float = 1.0,
    signed: bool = False,
    path: str | None = None,
    threads: int = 1,
) -> NDArray[np.float32]:
    """Causal attention ``[T, width]`` over counts ``[T, width]``; ``bias`` ``[heads, distance]``.

    ``rule`` is winners (hard and top-K), sparsemax, softmax, powers (of two, to so many binary
    ``digits``) or ssa.
    """
    result, _ = native().attend(
        *(q, k, v, spike_type, levels, unit, heads, rule, winners, weight, digits, scale, bias),
        signed,
        choose(path).name,
        threads,
    )
    return result


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
    path: str | None = None,
    threads: int = 1,
) -> NDArray[np.float32]:
    """SFSA ``[S, T, width]`` over binary spikes ``[S, T, width]``; sums of V's spikes."""
    steps, tokens, width = q.shape
    q, k, v = (operand.reshape(-1, width) for operand in (q, k, v))
    result = native().edges(
        *(q, k, v, steps, heads, decay, scale, threshold, bias), choose(path).name, threads
    )
    return result.reshape(steps, tokens, width)


def pair(
    x: NDArray[np.float32],
    value: NDArray[np.float32],
    *,
    largest: int,
    sign: bool = True,
    counts: bool = False,
    path: str | None = None,
) -> NDArray[np.float32]:
    """``x`` ``[T, n]`` as encoded by pairs of neurons; ``value`` of a spike ``[1 or 2, n]``."""
    return native().pair(x, value, largest, sign, counts, choose(path).name)


def activate(x: NDArray[np.float32], kind: str, *, path: str | None = None) -> NDArray[np.float32]:
    """relu, silu, gelu_tanh, gelu_erf or quick_gelu of ``x`` ``[T, n]``."""
    return native().activate(x, kind, choose(path).name)


def soft_cap(x: NDArray[np.float32], cap: float, *, path: str | None = None) -> NDArray[np.float32]:
    """``cap * tanh(x / cap)`` of ``x`` ``[T, n]``."""
    return native().soft_cap(x, cap, choose(path).name)


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
    largest: int = 0,
    half: bool = False,
    window: int = 0,
    path: str | None = None,
    threads: int = 1,
) -> NDArray[np.float32]:
    """Causal attention over reals ``[T, heads * K]``, or integers up to ``largest``.

    ``k`` and ``v`` ``[T, kv_heads * K]``, kept in two bytes each if ``half``; ``rule`` is softmax,
    winners, powers (of ``digits`` binary digits) or ssa. A query sees its own key and the
    ``window - 1`` before it; all with 0.
    """
    return native().mix(
        *(q, k, v, heads, kv_heads, rule, winners, weight, digits, scale),
        *(largest, half, window),
        choose(path).name,
        threads,
    )


def token_counts(
    x: NDArray[np.float32],
    steps: int = 8,
    reach: float = 8.0,
    dead_zone: float = 0.0,
    power_of_two: bool = False,
    *,
    path: str | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Counts ``[T, n]`` and units ``[T]`` of neurons whose threshold follows their token.

    ``steps`` is 2 to 8, ``reach`` at least 1; `spikeformers.neurons.token_if` has the equations.
    """
    return native().encode(x, steps, reach, dead_zone, power_of_two, choose(path).name)


def count_product(
    x: NDArray[np.float32],
    matrix: NDArray[Any],
    scale: NDArray[np.float32] | None = None,
    bias: NDArray[np.float32] | None = None,
    *,
    group_scale: NDArray[np.uint16] | None = None,
    minimum: NDArray[np.uint16] | None = None,
    steps: int = 8,
    reach: float = 8.0,
    dead_zone: float = 0.0,
    power_of_two: bool = False,
    path: str | None = None,
    threads: int = 1,
) -> NDArray[np.float32]:
    """`token_counts` of ``x`` ``[T, in]`` times ``matrix`` ``[in, out]``, in units of each row.

    ``matrix`` is float32, int8 with a ``scale`` ``[out]``, or int4 in groups of 32 inputs, packed,
    with ``group_scale`` and ``minimum`` ``[groups, out]`` (`spikeformers.export.quantising`); at
    most 65,536 inputs.
    """
    y, _ = native().count_product(
        *(x, matrix, scale, group_scale, minimum, bias, steps, reach, dead_zone, power_of_two),
        choose(path).name,
        threads,
        repeats=1,
    )
    return y


def fire(
    current: NDArray[np.float32],
    *,
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
    path: str | None = None,
) -> NDArray[np.int8]:
    """Counts ``[S, n]`` of one neuron layer for currents ``[S, n]``; ``levels`` are 1 to 64."""
    return native().fire(
        *(current, spike_type, levels, unit, decay, threshold, ratio, reset),
        *(step, dead_zone, gain, signed, choose(path).name),
    )


def norm(
    x: NDArray[np.float32],
    kind: str,
    gain: NDArray[np.float32] | None = None,
    shift: NDArray[np.float32] | None = None,
    eps: float = 1e-5,
    *,
    path: str | None = None,
) -> NDArray[np.float32]:
    """LayerNorm ("layer"), RMSNorm ("rms") or nothing ("none") of one row."""
    return native().norm(x, kind, gain, shift, eps, choose(path).name)


__all__ = [
    "TENSOR_PATHS",
    "VARIABLE",
    "Choice",
    "activate",
    "attend",
    "choose",
    "count_product",
    "edges",
    "fire",
    "mix",
    "native",
    "norm",
    "pair",
    "product",
    "soft_cap",
    "token_counts",
]
