"""Winners graded by powers of two: V's spikes are shifted and added.

    A = Q K^T * s + bias                          per head
    d[i, j] = (max_j A - A) log2 e                octaves below the row's winner
    z[i] = log2 sum_j P(d)                        over the keys with d <= 8: no other is heard
    A_w[i, j] = P(d + z),  0 if not heard
    Y = A_w V

P(x) is 2^-x to ``digits`` binary digits: with one a power of two, 2^-round(x), with two that or
1.5 times one. Between powers of two it is linear, and so is the logarithm of the sum: a float's
exponent and fraction, read as one number, and such a number as a float (Mitchell 1962,
https://doi.org/10.1109/TEC.1962.5219391; Schraudolph 1999,
https://doi.org/10.1162/089976699300016467). So no exponential, logarithm or division is left, and
sums of spikes whose step is a power of two are exact in any order. A row's weights sum to about 1.
With a large s only winners are left, as in WSSA; with a small one the row is a mean.

The backward pass is that of softmax(A / temperature). Weights of attention rounded to powers of
two are FQ-ViT's Log-Int-Softmax (Lin et al. 2022, https://arxiv.org/abs/2111.13824).
Differs: octaves are counted from the winner, and keys far below it are silent; a weight may have
more than one digit; trained through, not only quantised after training.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import torch
from torch import Tensor

from spikeformers.attention import _streaming
from spikeformers.attention._base import ScaledAttention, at_least_float32, masked_softmax, scale_of
from spikeformers.attention._blocks import (
    NEVER,
    Block,
    block_scores,
    query_blocks,
    softmax_gradients,
    terms_of,
)
from spikeformers.attention._pairs import Pairs, written_out
from spikeformers.errors import ConfigError
from spikeformers.kernels.triton import runs

FURTHEST = 8
"""Octaves below the winner at which a key still says something."""
SILENT = 60
"""Octaves below it at which a key is put that says nothing: no weight is so small."""
MOST_DIGITS = 4
OCTAVES = math.log2(math.e)
Kind = TypeVar("Kind", bound="PowerOfTwoAttention")


def check_digits(digits: int) -> None:
    """Raise ConfigError for a number of binary digits that weights cannot have."""
    if not 1 <= digits <= MOST_DIGITS:
        raise ConfigError(f"weight_digits must be 1 to {MOST_DIGITS}, not {digits}.")


def graded(scores: Tensor, digits: int) -> Tensor:
    """Weights of rows of scores ``[..., J]``, -inf where a key is not allowed.

    Each has so many significant binary digits, or is 0. Rows that allow no key are zero.
    """
    steps = 2 ** (digits - 1)  # of an octave
    best = scores.amax(-1, keepdim=True)
    best = torch.where(best == NEVER, 0.0, best)  # -inf less itself is not a number
    octaves = (scores - best).mul_(OCTAVES * steps)
    beyond = -FURTHEST * steps * (1 + torch.finfo(octaves.dtype).eps)  # the next number
    torch.threshold_(octaves, beyond, -SILENT * steps)
    total = _power_of(octaves, digits).sum(-1, keepdim=True)
    mantissa, exponent = torch.frexp(total)  # total = mantissa 2^exponent, 1/2 <= mantissa < 1
    place = torch.where(total > 0, exponent + (2 * mantissa - 2), 0.0)
    return _power_of(octaves.sub_(place * steps), digits)


def _power_of(octaves: Tensor, digits: int) -> Tensor:
    """P of the module, 0 of what is silent, in floats of the same type.

    ``octaves``, at most 0, are those above the winner, in steps of 2^(1 - digits) octaves.
    """
    double = octaves.dtype == torch.float64
    one, places, whole = (1023, 52, torch.int64) if double else (127, 23, torch.int32)
    rounded = octaves.round().to(whole)
    bits = torch.rsub(rounded, one << places, alpha=-(1 << (places + 1 - digits)))
    return torch.threshold_(bits.view(octaves.dtype), 2.0 ** (1 - SILENT), 0.0)


class _Read(torch.autograd.Function):
    """``y = graded(scores) v``, with a softmax's gradient; both passes go block by block."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Tensor | None,
        allowed: Tensor,
        scale: Tensor,
        temperature: float,
        digits: int,
        unit: float | Tensor | None = None,
    ) -> Tensor:
        batch, shape = q.shape[:-2], q.shape
        allowed = allowed.expand(-1, -1, q.shape[-2], k.shape[-2])
        ctx.blocks, ctx.batch, ctx.unit = query_blocks(allowed, q, k.shape[-2]), batch, unit
        ctx.temperature, ctx.digits = temperature, digits
        terms = terms_of(bias, allowed, q.dtype)
        q, k, v = q.flatten(0, -3), k.flatten(0, -3), v.flatten(0, -3)
        y = torch.empty_like(q)
        for block in ctx.blocks:
            scores = block_scores(q, k, scale, terms, unit, batch, block)
            weights = graded(scores, digits).flatten(0, -3)
            y[:, block.rows] = torch.bmm(weights, v[:, block.keys])
        ctx.save_for_backward(q, k, v, scale, allowed, *terms)
        return y.view(shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, scale, allowed, *terms = ctx.saved_tensors
        gy, g_v = grads[0].flatten(0, -3), torch.zeros_like(v)

        def add_rows(block: Block, scores: Tensor) -> None:
            weights = graded(scores, ctx.digits).flatten(0, -3)
            g_v[:, block.keys] += torch.bmm(weights.transpose(1, 2), gy[:, block.rows])

        seen = allowed.any(-1, keepdim=True)
        tensors = (q, k, v, scale, *terms)
        g_q, g_k, g_bias, g_scale = softmax_gradients(ctx, gy, tensors, seen, add_rows)
        g_v = g_v.view(*ctx.batch, *g_v.shape[1:])
        return g_q, g_k, g_v, g_bias, None, g_scale, None, None, None


class PowerOfTwoAttention(ScaledAttention):
    """Attention whose weights are powers of two; `graded` has the rule."""

    weights_are_real = True  # for counting: each count of V adds a weight of its own
    averages = True
    options = ("weight_digits",)

    def __init__(
        self,
        scale: float,
        temperature: float = 1.0,
        heads: int = 1,
        learn_scale: bool = False,
        digits: int = 2,
    ) -> None:
        super().__init__(scale, heads, learn_scale)
        check_digits(digits)
        if temperature <= 0:
            raise ConfigError(f"surrogate_temperature must be positive, not {temperature}.")
        self.temperature = temperature
        self.digits = digits

    @classmethod
    def from_config(cls: type[Kind], config: Any) -> Kind:
        return cls(
            scale_of(config),
            config.surrogate_temperature,
            config.num_attention_heads,
            config.learn_attention_scale,
            config.weight_digits,
        )

    def streams(self, device: str) -> bool:
        return runs(device)

    def engine_rule(self) -> dict[str, Any]:
        return {"rule": "powers", "digits": self.digits}

    def weights(self, q: Tensor, k: Tensor, allowed: Tensor, bias: Tensor | None) -> Tensor:
        with torch.autocast(q.device.type, enabled=False):
            scores = self.scores(at_least_float32(q), at_least_float32(k), bias).masked_fill(
                ~allowed, float("-inf")
            )
            weights = graded(scores.detach(), self.digits)
            if not torch.is_grad_enabled():
                return weights
            p = masked_softmax(scores / self.temperature, allowed)
            return weights - p.detach() + p

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | Pairs, bias: Tensor | None = None
    ) -> Tensor:
        if _streaming.streams("graded", "", q, allowed, bias):
            return _streaming.power_of_two(self, q, k, v, allowed, bias)
        allowed, bias = written_out(allowed, bias, q, k)
        # Scores of spikes are exact in float32; half precision would invent ties.
        with torch.autocast(q.device.type, enabled=False):
            y: Tensor = _Read.apply(
                at_least_float32(q),
                at_least_float32(k),
                at_least_float32(v),
                None if bias is None else at_least_float32(bias),
                allowed,
                self.scale(),
                self.temperature,
                self.digits,
                self.score_unit,
            )
        return y.to(v.dtype)

    def operations(self, pairs: Tensor) -> dict[str, int]:
        number, rows = int(pairs.sum()), int(pairs.any(-1).sum())
        # The winner is found, octaves are counted from it, and what is heard is summed.
        return {"winner_compare": number - rows, "mult": number, "compare": number, "add": number}

    def points(self, value_type: str, values: str, *, fired: bool) -> list[tuple[str, str, str]]:
        scores, _, output = super().points(value_type, values, fired=fired)
        kinds = "powers of two" if self.digits == 1 else f"numbers of {self.digits} binary digits"
        return [scores, ("attention weights", "real", f"0 and {kinds}"), output]

    def extra_repr(self) -> str:
        return f"digits={self.digits}, temperature={self.temperature}, {super().extra_repr()}"
