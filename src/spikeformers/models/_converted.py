"""The spiking feed-forward block and the spiking attention of a converted model.

Feed-forward; E encodes a real value x in T steps, with one ON/OFF pair of neurons per channel, or
with a threshold per token (`spikeformers.neurons.token_if`):

    signed-if, ni-lif    y = E(act(E(x) W_up)) W_down          gated: act(E(x) W_gate) * E(x) W_up
    qcfs                 y = IF(E(x) W_up) W_down              gated: E(IF(E(x) W_gate) * E(x) W_up)

Attention; q and k have one threshold per head, so that products of counts are the source's scores
up to a factor per head:

    q, k, v = E(rotate(E(x) W_q)), E(rotate(E(x) W_k)), E(E(x) W_v)
    hard    y = core(q, k, v) W_o                              one row of v's spikes
    other   y = E(gain * Norm(core(q, k, v))) W_o              a sum of rows fires again

NeurTransformer, https://arxiv.org/abs/2510.00133, which gives no equation: the neurons, their
places, T and the norm are this project's. Every linear map has spikes at its input; the sum over
steps, the activation and the rotation are elementwise on reals. Products of q, k and v run over
all pairs of their T steps' spikes, that is over counts, before the one competition.
Shapes: S steps (1 where counts are handed on), B batch, T tokens, D width, H heads, K per head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from spikeformers.attention import SSA, WTA, PowerOfTwoAttention, ScaledAttention
from spikeformers.layers import merge_heads, split_heads
from spikeformers.models._cache import append_rows
from spikeformers.models._masks import visible
from spikeformers.models._sources import Shape
from spikeformers.neurons import IF, PhaseIF, SignedIF, SignedNILIF, TokenIF, by_sign

CODES: dict[str, type[SignedIF]] = {"rate": SignedIF, "phase": PhaseIF}
"""The code in which a pair of neurons transmits a value over T steps."""
TokenNeurons = Callable[[int], TokenIF]
"""Creates neurons with a threshold per token for the given number of values."""
SCORE_SCALE = 0.125  # s of SSA, as in Spikformer


class SpikeMap(nn.Linear):
    """``y = x W^T + b`` of decoded spikes, step by step, ``[S, B, T, D]`` to ``[S, B, T, D']``.

    A plain linear map of one operand (``Decode``), so that a module that replaces it or runs beside
    it, such as a low-rank adapter, reads that operand too. In hardware the value of a spike is
    folded into the weights, one column per sign; here it scales the input, which is not counted.
    """

    adds_bias_once: bool = True
    """Whether the steps' currents are summed, so that the bias is added once; false: each current
    is used by itself."""


class Decode(nn.Module):
    """Spikes ``[S, ...]`` times S and the ``value`` of each (``IF.value``).

    So the mean over steps (``Mean``) of the currents of a ``SpikeMap``, bias included, is the map
    of the sum that the spikes stand for, and each step's current can drive a neuron that does not
    wait for the others.
    """

    counted_as: ClassVar[str] = "decodes"
    """Its output stands for the spikes that it read; the arithmetic folds into the map after it."""

    def __init__(self, scales_sums: bool = False, keeps_step: bool = True) -> None:
        super().__init__()
        self.keeps_step = keeps_step
        """Whether its output has a dimension of steps; counts, of one step, may drop it."""
        self.scales_sums = scales_sums
        """Whether ``value`` differs between tokens: it cannot be part of a weight, so in hardware
        each sum of the map is multiplied by it once."""

    def forward(self, spikes: Tensor, value: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        steps, each = spikes.shape[0], by_sign(spikes, value)
        values = spikes * (each if steps == 1 else each * steps)
        if not self.keeps_step:
            values = values.squeeze(0)
        return values if dtype is None else values.to(dtype)


def decoder_of(fire: IF | TokenIF, *, keeps_step: bool = True) -> Decode:
    """The decoder of ``fire``: a unit per token is a factor on each sum, or a shift."""
    return Decode(fire.value_per_token and not fire.power_of_two, keeps_step)


def encoded(fire: IF | TokenIF, decode: Decode, x: Tensor) -> Tensor:
    """``x`` ``[B, T, D]`` as spikes of ``fire`` stand for it.

    ``[S, B, T, D]``, or ``[B, T, D]`` without ``decode.keeps_step``.
    """
    current = x.unsqueeze(0)
    value = fire.value_of(current)
    values: Tensor = decode(fire(current, value), value, x.dtype)
    return values


class Mean(nn.Module):
    """Mean over steps, ``[S, ...]`` to ``[...]``: additions that belong to the map before it."""

    counted_as: ClassVar[str] = "part of a product"

    def forward(self, currents: Tensor) -> Tensor:
        return currents.squeeze(0) if currents.shape[0] == 1 else currents.mean(0)


class SpikingFeedForward(nn.Module):
    """Spikes into both (gated: all three) linear maps."""

    def __init__(
        self,
        shape: Shape,
        method: str,
        steps: int,
        *,
        code: str,
        unrolled: bool,
        pipelined: bool,
        token: TokenNeurons | None = None,
    ) -> None:
        super().__init__()
        self.method, self.gated = method, shape.gated
        self.can_be_pipelined = method == "qcfs" and not shape.gated
        """Whether its IF neurons may get their input step by step, without a wait for its sum."""
        self.pipelined = pipelined and self.can_be_pipelined
        unrolled = unrolled or self.pipelined

        def pair(channels: int) -> SignedIF | TokenIF:
            if token is not None:
                return token(channels)
            if method == "ni-lif":
                return SignedNILIF((channels,), steps)
            return CODES[code]((channels,), steps, unrolled)

        self.fire_in = pair(shape.width)
        self.decode, self.mean = decoder_of(self.fire_in), Mean()
        self.up = SpikeMap(shape.width, shape.hidden, shape.ffn_bias)
        self.up.adds_bias_once = not self.pipelined
        self.gate = SpikeMap(shape.width, shape.hidden, shape.ffn_bias) if shape.gated else None
        self.act = None if method == "qcfs" else ACT2FN[shape.activation]
        self.fire_act = IF((shape.hidden,), steps, unrolled) if method == "qcfs" else None
        self.fire_hidden = None if method == "qcfs" and not shape.gated else pair(shape.hidden)
        self.down = SpikeMap(shape.hidden, shape.width, shape.ffn_bias)
        self.dropout = nn.Dropout(shape.dropout)

    def readers(self) -> dict[str, int]:
        """The number of weights that read the spikes of each of its neuron layers."""
        first = self.up.weight.numel() * (2 if self.gated else 1)
        return {"fire_in": first, "fire_hidden": self.down.weight.numel()}

    def hidden(self, x: Tensor) -> Tensor:
        """The decoded spikes into ``down``, ``[S, B, T, D']``."""
        values = encoded(self.fire_in, self.decode, x)
        z = (self.up if self.gate is None else self.gate)(values)
        if not self.pipelined:
            z = self.mean(z)
        if self.fire_act is None:
            h = self.act(z)  # type: ignore[misc]
        else:
            fired = self.fire_act(z if self.pipelined else z.unsqueeze(0))
            if self.gate is None:
                return self.decode(fired, self.fire_act.value)
            h = (fired * self.fire_act.value).sum(0)
        if self.gate is not None:
            h = h * self.mean(self.up(values))
        assert self.fire_hidden is not None
        return encoded(self.fire_hidden, self.decode, h)

    def forward(self, hidden_states: Tensor) -> Tensor:
        y: Tensor = self.dropout(self.mean(self.down(self.hidden(hidden_states))))
        return y

    def stepwise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The output ``[B, T, D]`` if its IF neurons get their input step by step, and if they wait
        for the sum of the steps; only with ``can_be_pipelined``.
        """
        assert self.fire_act is not None
        neurons = (self.fire_in, self.fire_act)
        before = [neuron.unrolled for neuron in neurons]
        for neuron in neurons:
            neuron.unrolled = True
        currents = self.up(encoded(self.fire_in, self.decode, x))
        waiting = currents.mean(0, keepdim=True)
        by_step, by_sum = (
            self.mean(self.down(self.decode(self.fire_act(z), self.fire_act.value)))
            for z in (currents, waiting)
        )
        for neuron, was in zip(neurons, before, strict=True):
            neuron.unrolled = was
        return by_step, by_sum


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions on the first channels of ``[B, H, T, K]``; cos and sin ``[B, T, K']``."""
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    turned, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    first, second = turned.chunk(2, -1)
    turned = turned * cos + torch.cat((-second, first), -1) * sin
    return torch.cat((turned, rest), -1)


class SpikingSelfAttention(nn.Module):
    """Replaces the source's attention, with the same arguments."""

    def __init__(
        self,
        shape: Shape,
        layer: int,
        *,
        attention: str,
        wta: str,
        winners: int,
        digits: int,
        neuron: str,
        steps: int,
        code: str,
        norm: str,
        unrolled: bool,
        token: TokenNeurons | None = None,
    ) -> None:
        super().__init__()
        self.layer_idx, self.shape = layer, shape
        heads, kv_heads, width = shape.heads, shape.kv_heads, shape.head_width
        pair = CODES[code]

        def encode(channels: int) -> SignedIF | TokenIF:
            return pair((channels,), steps, unrolled) if token is None else token(channels)

        self.fire_in = encode(shape.width)
        self.decode, self.mean = decoder_of(self.fire_in), Mean()
        self.query = SpikeMap(shape.width, heads * width, shape.qkv_bias)
        self.key = SpikeMap(shape.width, kv_heads * width, shape.qkv_bias)
        self.value = SpikeMap(shape.width, kv_heads * width, shape.qkv_bias)

        def fire(count: int, channels: int) -> IF:
            if neuron == "if":
                return IF((count, 1, channels), steps)
            return pair((count, 1, channels), steps, symmetric=True)

        self.fire_query, self.fire_key = fire(heads, 1), fire(kv_heads, 1)
        self.fire_value = fire(kv_heads, width)
        self.core: ScaledAttention
        if attention == "ssa":
            self.core = SSA(SCORE_SCALE, heads, learn_scale=True)
        elif attention == "power-of-two":
            self.core = PowerOfTwoAttention(1.0, heads=heads, learn_scale=True, digits=digits)
        else:
            self.core = WTA(
                1.0,
                wta,  # type: ignore[arg-type]
                winners,
                winner_weight="mean",
                heads=heads,
                learn_scale=True,
            )
        one_row = self.core.reads_per_query == 1
        self.norm = nn.RMSNorm(width) if attention == "ssa" and norm == "rms" else None
        self.gain = None if one_row else nn.Parameter(torch.ones(heads * width))
        self.fire_out = None if one_row else encode(heads * width)
        self.out = SpikeMap(heads * width, shape.width, shape.out_bias)
        self.dropout = nn.Dropout(shape.dropout)

    def readers(self) -> dict[str, int]:
        """The number of weights that read the spikes of its input and output neurons."""
        first = sum(linear.weight.numel() for linear in (self.query, self.key, self.value))
        return {"fire_in": first, "fire_out": self.out.weight.numel()}

    def currents(
        self, x: Tensor, rotary: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The currents of the neurons of q, k and v, ``[B, H or H', T, K]``."""
        values = encoded(self.fire_in, self.decode, x)
        maps = (self.query, self.key, self.value)
        q, k, v = (split_heads(self.mean(linear(values)), self.shape.head_width) for linear in maps)
        if rotary is not None:
            q, k = rotate(q, *rotary), rotate(k, *rotary)
        return q, k, v

    def spikes(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Counts of q, k and v over T steps, ``[1, B, H or H', T, K]``."""
        fires = (self.fire_query, self.fire_key, self.fire_value)
        q, k, v = (fire(x.unsqueeze(0)) for fire, x in zip(fires, (q, k, v), strict=True))
        return q, k, v

    def sums(self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor) -> Tensor:
        """The core's output for these counts, in spikes of v, ``[1, B, T, H * K]``."""
        groups = self.shape.groups
        if groups > 1:
            k, v = (x.repeat_interleave(groups, -3) for x in (k, v))
        y: Tensor = self.core(q, k, v, allowed)
        return merge_heads(y)

    def value_of_v(self) -> Tensor:
        """The value of one spike of v, per channel of the output, ``[1, H * K]``."""
        return self.fire_value.value.repeat_interleave(self.shape.groups, 1).flatten(1)

    def reals(self, y: Tensor) -> Tensor:
        """The current of the output neuron before its gain, ``[B, T, H * K]``."""
        y = (y * self.value_of_v()).squeeze(0)
        if self.norm is None:
            return y
        normed: Tensor = self.norm(y.unflatten(-1, (-1, self.shape.head_width)))
        return normed.flatten(-2)

    def norm_operations(self) -> dict[str, int]:
        """Elementwise operations of the norm of SSA's sums, per token; none without one."""
        if self.norm is None:
            return {}
        values = self.shape.heads * self.shape.head_width
        return {"add": values, "mult": 3 * values, "function": self.shape.heads}

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        layer_past: Any = None,
        **_: Any,
    ) -> tuple[Tensor, Tensor | None]:
        cache = past_key_values if layer_past is None else layer_past
        q, k, v = self.spikes(*self.currents(hidden_states, position_embeddings))
        if cache is not None:
            k, v = append(cache, k, v, self.layer_idx)
        allowed = allowed_keys(attention_mask, q.shape[-2], k.shape[-2], q.device)
        y = self.sums(q, k, v, allowed)
        if self.fire_out is None:
            values = self.decode(y, self.value_of_v())
        else:
            assert self.gain is not None
            values = encoded(self.fire_out, self.decode, self.reals(y) * self.gain)
        return self.dropout(self.mean(self.out(values))), None


def append(cache: Any, k: Tensor, v: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """Append counts to a Transformers cache, which holds ``[B, H, J, K]``."""
    k_all, v_all = append_rows(cache, k.squeeze(0), v.squeeze(0), layer)
    return k_all.unsqueeze(0), v_all.unsqueeze(0)


def allowed_keys(mask: Tensor | None, queries: int, keys: int, device: torch.device) -> Tensor:
    """Bool ``[B or 1, 1, T, J]``: what the source's mask allows; causal if it is None."""
    if mask is None:
        ones = torch.ones(queries, keys, dtype=torch.bool, device=device)
        return ones.tril(keys - queries)[None, None]
    return visible(mask, queries, keys)
