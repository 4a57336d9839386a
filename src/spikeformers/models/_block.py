"""One block: attention and MLP on the membrane stream, spikes into every matrix product.

    X' = SN(Norm(X));  Q, K, V = SN(Norm(X' W_q)), SN(Norm(X' W_k)), SN(Norm(X' W_v))
    X <- X + Attention(Q, K, V) W_o                         hard WTA: the output already is spikes
    X <- X + SN(Norm(SN(Norm(X)) W_1)) W_2

With ``token_shift`` half of each X', and of what W_1 reads, is the token's before.
Attention that sums rows (top-K, SSA, softmax, sparsemax) fires again, SN(Norm(A_w V)), before W_o;
``sum_norm=False`` leaves out that norm.
Winner-Take-All Spiking Transformer for Language Modeling, https://arxiv.org/abs/2604.11321;
the config says where norms are.

Shapes: S simulation steps, B batch, T tokens, D width, H heads, K per head, J keys.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer

from spikeformers.attention import ATTENTIONS, Attention, Pairs
from spikeformers.errors import ConfigError
from spikeformers.layers import (
    Fire,
    SpikeLinear,
    TokenShift,
    make_norm,
    merge_heads,
    split_heads,
)
from spikeformers.models._cache import RunningState, append, shifted
from spikeformers.models._config import SpikingformerConfig
from spikeformers.models._places import neuron_at
from spikeformers.neurons import Neuron, collapse, mark_padding


def make_head_neuron(config: SpikingformerConfig) -> Neuron | None:
    """The neuron in front of the head, or None."""
    return neuron_at(config, "head") if config.spiking_head else None


def make_attention(config: SpikingformerConfig) -> Attention:
    """The configured attention core."""
    return ATTENTIONS.get_or_refuse(config.attention, "attention").from_config(config)


def make_role(config: SpikingformerConfig, role: str) -> nn.Module:
    """The neuron of Q, K or V: the attention's own for ``role``, or else that of the place."""
    own = ATTENTIONS.get_or_refuse(config.attention, "attention").role_neuron(config, role)
    return neuron_at(config, role) if own is None else own


def make_fire(config: SpikingformerConfig, width: int, norm: bool, neuron: nn.Module) -> Fire:
    """Norm, if ``norm``, then ``neuron``."""
    name = config.norm if norm else "none"
    return Fire(neuron, make_norm(name, width, config.norm_eps, config.neuron_gain))


class SpikingAttention(nn.Module):
    """Spikes in, heads of spikes through the attention core, membrane current out."""

    chains: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("fire_in", "shift", "query", "fire_query"),
        ("fire_in", "shift", "key", "fire_key"),
        ("fire_in", "shift", "value", "fire_value"),
        ("fire_out", "out", "out_norm"),
    )
    """Modules that data pass through one after another, by name."""

    def __init__(self, config: SpikingformerConfig, layer: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.layer, self.heads = layer, config.num_attention_heads
        self.head_width = config.head_width
        self.fire_in = make_fire(config, width, config.pre_norm, neuron_at(config, "in"))
        self.shift = TokenShift(width) if config.token_shift else None
        self.slot = config.num_hidden_layers + layer  # of the cache: the last token's spikes
        self.query = SpikeLinear(width, width, config.bias)
        self.key = SpikeLinear(width, width, config.bias)
        self.value = SpikeLinear(width, width, config.bias)
        self.fire_query, self.fire_key, self.fire_value = (
            make_fire(config, width, config.projection_norm, make_role(config, role))
            for role in ("query", "key", "value")
        )
        self.core = make_attention(config)
        # One winner's V row already is spikes; sums of rows have to fire again.
        fires_again = not self.core.hands_on_one_row
        self.fire_out = (
            make_fire(config, width, config.sum_norm, neuron_at(config, "out"))
            if fires_again
            else None
        )
        self.out = SpikeLinear(width, width, config.bias)
        self.out.ends_residual = True
        self.out_norm = make_norm(
            config.norm if config.output_norm else "none", width, config.norm_eps
        )

    @property
    def sums_sub_steps(self) -> bool:
        """Whether neurons emit binary sub-steps, whose scores are summed before the competition."""
        return self.fire_in.neuron.expanded

    def maps(self) -> list[tuple[nn.Module, Neuron]]:
        """The linear maps, each with the neuron whose spikes it reads."""
        read = self.fire_value if self.fire_out is None else self.fire_out
        projections = (self.query, self.key, self.value)
        return [
            *((linear, self.fire_in.neuron) for linear in projections),
            (self.out, read.neuron),
        ]

    def summed_sub_steps(
        self, fired_by: Callable[[nn.Module], Tensor]
    ) -> list[tuple[Tensor, float]]:
        """q, k and v ``[S, B, H, T, K]``, each with its unit; ``fired_by`` gives the sub-steps
        ``[sub_steps, S, B, T, D]`` that a neuron has just emitted.
        """
        neurons = [fire.neuron for fire in (self.fire_query, self.fire_key, self.fire_value)]
        counts = [collapse(fired_by(neuron), neuron.off_steps) for neuron in neurons]
        return [
            (split_heads(count, self.head_width) * neuron.unit, neuron.unit)
            for count, neuron in zip(counts, neurons, strict=True)
        ]

    def forward(
        self,
        x: Tensor,
        allowed: Tensor | Pairs,
        bias: Tensor | None,
        cache: Cache | None,
        want_weights: bool,
        present: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        spikes = self.fire_in(x)
        if self.shift is not None:
            spikes = shifted(self.shift, spikes, present, cache, self.slot)
        q = split_heads(self.fire_query(self.query(spikes)), self.head_width)
        k = split_heads(self.fire_key(self.key(spikes)), self.head_width)
        v = split_heads(self.fire_value(self.value(spikes)), self.head_width)
        if self.core.keeps_state:
            y, weights = self._running(q, k, v, allowed, cache, want_weights)
            return self._current(y), weights
        if cache is not None:
            k, v = append(cache, k, v, self.layer)
        if self.core.scores_are_counts:
            neurons = [f.neuron for f in (self.fire_query, self.fire_key, self.fire_value)]
            self.core.score_unit = _inexact(neurons[0].spike_value() * neurons[1].spike_value())
            self.core.exact_in_half = all(neuron.exact_in_half for neuron in neurons)
        weights = None
        if self.fire_in.neuron.expanded:
            assert isinstance(allowed, Tensor)
            y, weights = self._expanded(q, k, v, allowed, bias)
        else:
            y = self.core(q, k, v, allowed, bias)
            if want_weights:
                assert isinstance(allowed, Tensor)
                weights = self.core.weights(q, k, allowed, bias)
        return self._current(y), weights if want_weights else None

    def _current(self, y: Tensor) -> Tensor:
        """The current that joins the stream, from the core's output by heads."""
        y = merge_heads(y)
        if self.fire_out is not None:
            y = self.fire_out(y)
        current: Tensor = self.out_norm(self.out(y))
        return current

    def _running(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        allowed: Tensor | Pairs,
        cache: Cache | None,
        want: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """A2OS2A by its state, which the cache keeps in place of keys and values."""
        if isinstance(allowed, Pairs):
            return self.core(q, k, v, allowed), None
        if cache is None:
            weights = self.core.weights(q, k, allowed, None) if want else None
            return self.core(q, k, v, allowed), weights
        layer = cache.layers[self.layer]
        assert isinstance(layer, RunningState)
        if want and layer.seen:
            raise ConfigError(
                "attention_order='state' keeps no keys, so there are no weights on earlier tokens; "
                "ask for attentions without a cache, or use attention_order='scores'."
            )
        before = layer.state((*k.shape[:-2], k.shape[-1], v.shape[-1]))
        y, state = self.core.stream(q, k, v, allowed, before)
        layer.put(state, q.shape[-2])
        return y, self.core.weights(q, k, allowed, None) if want else None

    def _expanded(
        self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Attention over binary sub-steps: one competition on the sum over all pairs."""
        query, key, value = (
            fire.neuron for fire in (self.fire_query, self.fire_key, self.fire_value)
        )
        # A sum over all pairs of sub-steps is the product of their sums.
        counts = collapse(k, key.off_steps).transpose(-1, -2)
        scores = torch.matmul(collapse(q, query.off_steps), counts)
        # The core takes any q k^T: hand it the summed scores as q against an identity k.
        eye = torch.eye(scores.shape[-1], device=scores.device, dtype=scores.dtype)
        weights = self.core.weights(scores * (query.unit * key.unit), eye, allowed, bias)
        y = torch.matmul(weights, v)
        if self.fire_out is not None:
            y = collapse(y, value.off_steps) * value.unit
        return y, weights


def _inexact(unit: float | Tensor) -> float | Tensor | None:
    """``unit`` unless it is a power of two, whose multiples floats add without rounding."""
    if isinstance(unit, Tensor):  # learned
        return unit
    return None if math.frexp(unit)[0] == 0.5 else unit


class SpikingMLP(nn.Module):
    """Two spike-driven linear maps; no GELU."""

    chains: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("fire_in", "shift", "up", "fire_hidden", "down", "out_norm"),
    )
    """Modules that data pass through one after another, by name."""

    def __init__(self, config: SpikingformerConfig, layer: int) -> None:
        super().__init__()
        width, hidden = config.hidden_size, config.intermediate_size
        assert hidden is not None
        self.fire_in = make_fire(config, width, config.pre_norm, neuron_at(config, "mlp_in"))
        self.shift = TokenShift(width) if config.token_shift else None
        self.slot = 2 * config.num_hidden_layers + layer
        self.up = SpikeLinear(width, hidden, config.bias)
        self.fire_hidden = make_fire(
            config, hidden, config.projection_norm, neuron_at(config, "hidden")
        )
        self.down = SpikeLinear(hidden, width, config.bias)
        self.down.ends_residual = True
        self.out_norm = make_norm(
            config.norm if config.output_norm else "none", width, config.norm_eps
        )

    def maps(self) -> list[tuple[nn.Module, Neuron]]:
        """The linear maps, each with the neuron whose spikes it reads."""
        return [(self.up, self.fire_in.neuron), (self.down, self.fire_hidden.neuron)]

    def forward(
        self, x: Tensor, cache: Cache | None = None, present: Tensor | None = None
    ) -> Tensor:
        spikes = self.fire_in(x)
        if self.shift is not None:
            spikes = shifted(self.shift, spikes, present, cache, self.slot)
        y: Tensor = self.out_norm(self.down(self.fire_hidden(self.up(spikes))))
        return y


class SpikingBlock(GradientCheckpointingLayer):
    """Attention and MLP on the membrane stream ``[S, B, T, D]``."""

    def __init__(self, config: SpikingformerConfig, layer: int) -> None:
        super().__init__()
        self.attention = SpikingAttention(config, layer)
        self.mlp = SpikingMLP(config, layer)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        allowed: Tensor | Pairs,
        bias: Tensor | None = None,
        cache: Cache | None = None,
        want_weights: bool = False,
        present: Tensor | None = None,
        counted: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """``counted`` ``[B, T]`` masks padding, which statistics of the neurons leave out."""
        if self.training or counted is not None:  # here, where checkpointing computes it again
            mark_padding(self, counted)
        y, weights = self.attention(x, allowed, bias, cache, want_weights, present)
        x = x + self.dropout(y)
        return x + self.dropout(self.mlp(x, cache, present)), weights
