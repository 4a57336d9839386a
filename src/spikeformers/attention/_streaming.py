"""Attention cores by Triton's kernels: who may, and how operands reach them.

Kernels multiply in the operands' type and add in float32. Spikes are cast to autocast's type where
that holds them exactly (``Attention.exact_in_half``), so scores stay integers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from spikeformers.attention._pairs import Pairs
from spikeformers.kernels.triton import MOST_STEPS, MOST_WINNERS, WIDEST, runs, type_refusal

if TYPE_CHECKING:
    from spikeformers.attention._base import ScaledAttention
    from spikeformers.attention.power_of_two import PowerOfTwoAttention
    from spikeformers.attention.sfsa import SFSA
    from spikeformers.attention.wta import WTA


def streams(
    kernel: str, refusal: str, q: Tensor, allowed: Tensor | Pairs, bias: Tensor | None
) -> bool:
    """Whether ``kernel`` takes this call; ``refusal`` is the core's own reason against it.

    Raises EngineUnavailable if Triton was asked for and cannot.
    """
    refusal = refusal or type_refusal(q)
    if not refusal and q.shape[-1] > WIDEST[kernel]:
        refusal = f"heads are at most {WIDEST[kernel]} wide, not {q.shape[-1]}"
    if not refusal and bias is not None and not isinstance(allowed, Pairs):
        refusal = "a bias that is written out for every pair cannot be streamed"
    return runs(q.device.type, refusal)


def cast(exact: bool, *operands: Tensor) -> tuple[Tensor, ...]:
    """Operands of one type: autocast's if it is on and ``exact``, else float32 or their own."""
    device = operands[0].device.type
    dtypes = {x.dtype for x in operands}
    dtype = dtypes.pop() if len(dtypes) == 1 else torch.float32
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device) if exact else torch.float32
    return tuple(x.to(dtype) for x in operands)


def _mask(allowed: Tensor | Pairs) -> tuple[bool, Tensor | None]:
    """Whether the kernel is causal, and its mask, of keys or of pairs."""
    if isinstance(allowed, Pairs):
        return allowed.causal, allowed.columns
    return False, allowed[:, 0]


def wta_refusal(core: WTA) -> str:
    """Why a core's rule cannot be streamed; "" if it can."""
    if core.competition == "sparsemax":
        return "sparsemax sorts whole rows of scores"
    if core.winners > MOST_WINNERS:
        return f"top-K has at most {MOST_WINNERS} winners, not {core.winners}"
    return ""


def wta(
    core: WTA, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | Pairs, bias: Tensor | None
) -> Tensor:
    """`WTA.forward` by its kernel."""
    from spikeformers.kernels.triton.wta import winner_take_all

    operands, options = _operands(core, q, k, v, allowed, bias)
    y, _ = winner_take_all(
        *operands,
        **options,
        temperature=core.temperature,
        winners=core.winners,
        weight=core.weight,
    )
    return y.view(q.shape).to(v.dtype)


def power_of_two(
    core: PowerOfTwoAttention,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    allowed: Tensor | Pairs,
    bias: Tensor | None,
) -> Tensor:
    """`PowerOfTwoAttention.forward` by its kernel."""
    from spikeformers.attention.power_of_two import FURTHEST, SILENT
    from spikeformers.kernels.triton.graded import graded_sum

    operands, options = _operands(core, q, k, v, allowed, bias)
    y = graded_sum(
        *operands,
        **options,
        temperature=core.temperature,
        digits=core.digits,
        furthest=FURTHEST,
        silent=SILENT,
    )
    return y.view(q.shape).to(v.dtype)


def _operands(
    core: ScaledAttention,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    allowed: Tensor | Pairs,
    bias: Tensor | None,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Spikes, scale, bias and mask in a kernel's form; whether it is causal, and scores' unit."""
    causal, mask = _mask(allowed)
    heads = q.shape[-3]
    spikes = (x.flatten(0, 1) for x in cast(core.exact_in_half, q, k, v))
    scale = core.scale().float().expand(heads, 1, 1).reshape(heads)
    line = None if bias is None else bias.float()
    mask = None if mask is None else mask[..., -k.shape[-2] :]
    return (*spikes, scale, line, mask), {"causal": causal, "unit": _unit(core, q)}


def _unit(core: ScaledAttention, q: Tensor) -> Tensor | None:
    """``score_unit`` ``[1]``, where ``q`` is: a learned one is never read by the processor."""
    unit = core.score_unit
    if unit is None or isinstance(unit, Tensor):
        return unit if unit is None else unit.reshape(1)
    return torch.full((1,), unit, device=q.device)


def sfsa_refusal(core: SFSA, heads: int | None = None, steps: int = 1) -> str:
    """Why a core's edges cannot be streamed; "" if they can."""
    neuron = core.neuron
    if neuron.scan_rule() is None:
        return f"edges stream if their neuron is LIF, not {type(neuron).__name__}"
    if neuron.activity is not None or neuron.expanded or neuron._forward_hooks:
        return "the edges are observed, so they have to exist"
    if steps > MOST_STEPS:
        return f"the kernel takes at most {MOST_STEPS} steps, not {steps}"
    v_th = getattr(neuron, "v_th", 1.0)
    if heads is not None and isinstance(v_th, Tensor) and v_th.shape not in ((heads, 1, 1), (1,)):
        return f"a learned threshold has one number per head, not the shape {list(v_th.shape)}"
    return ""


def sfsa(
    core: SFSA, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | Pairs, bias: Tensor | None
) -> Tensor:
    """`SFSA.forward` by its kernel."""
    from spikeformers.kernels.triton.sfsa import fired_edges

    causal, mask = _mask(allowed)
    heads = q.shape[-3]
    rule = core.neuron.scan_rule()
    assert rule is not None
    v_th = rule.v_th
    if not isinstance(v_th, Tensor):
        v_th = torch.full((1,), v_th, device=q.device)
    spikes = cast(core.exact_in_half, q, k, v)
    y = fired_edges(
        spikes[0],
        spikes[1],
        spikes[2],
        core.scale().float().expand(heads, 1, 1).reshape(heads),
        v_th.float().expand(heads, 1, 1).reshape(heads),
        None if bias is None else bias.float(),
        None if mask is None else mask[..., -k.shape[-2] :],
        causal=causal,
        decay=rule.decay,
        reset=rule.reset,
        surrogate=rule.surrogate,
        sharpness=rule.sharpness,
    )
    return y.to(v.dtype)


def a2os2a(q: Tensor, k: Tensor, v: Tensor, pairs: Pairs) -> Tensor:
    """Causal `A2OS2A.forward` by its kernel; autocast's type, as its products have."""
    from spikeformers.kernels.triton.a2os2a import addition_only

    shape = v.shape
    if pairs.columns is not None:
        k = k * pairs.columns[:, None, :, None].to(k.dtype)
    q, k, v = (x.flatten(0, 2) for x in cast(True, q, k, v))
    y, _ = addition_only(q, k, v)
    return y.view(shape)
