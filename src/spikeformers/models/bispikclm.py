"""BiSpikCLM: a causal language model of binary spikes without softmax.

    X = SN(Norm(embedding + position)), a constant current over S steps
    R = X;  per block, on the residual stream R:
        X = SN(Norm(R))
        Q, K, V = SN(Norm(X W_q)), SN(Norm(X W_k)), SN(Norm(X W_v))
        R <- R + SN(Norm(SFSA(Q, K, V) W_o))
        R <- R + SN(Norm(SN(Norm(SN(Norm(R)) W_1)) W_2))
    logits = Norm(mean over S of R) W_head

SN is LIF with soft reset, U[t] = I[t] + beta U[t-1] - V_th S[t-1], arctan surrogate with alpha 2;
its reset stays in the graph. BiSpikCLM, https://arxiv.org/abs/2605.13859.

What "binary" means here. Every neuron emits 0 or 1, and every matrix product in the blocks but
one reads spikes of a neuron or (attention) has spikes on both sides; W_o reads O_int, integers
0..J that repeated additions serve. With ``residual="add"`` the stream R is a sum of binary trains:
integers 0..2L+1, never read by a product before a neuron made it binary. With ``residual="or"``
the stream stays in {0, 1}: R <- R or X.

While training, dropout silences spikes on their way into R. With "or" the others stay 1, so that R
is binary then as well: R <- R or (X and m). With "add" they weigh 1 / (1 - p), as is usual, and R
is not an integer until training ends; no product reads it.

Unspecified by the paper, a field each: beta and V_th (0.9 with 0.7, or V_th = 1), norms inside SN,
how a binary residual stays binary, positions, tying and the head's input. The neuron in front of
the attention (``residual="add"``) is ours: without it W_q, W_k and W_v would read integers.
Differs: ``position="relative"``, the default, adds a learned bias to the integer scores of SFSA,
one real number per head and distance: A = SN((Q K^T + b[h, i - j]) * M). ``position="learned"``
(or "none") leaves the scores integers, as the paper's equation does.

Shapes: S simulation steps, B batch, T tokens, D width, H heads, K per head, J keys.
"""

from __future__ import annotations

import copy
import math
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer

from spikeformers.attention import SFSA, Pairs
from spikeformers.layers import (
    Fire,
    SpikeDropout,
    SpikeLinear,
    make_norm,
    merge_heads,
    split_heads,
)
from spikeformers.models._cache import append
from spikeformers.models._checks import between, one_of
from spikeformers.models._config import SpikingConfig
from spikeformers.models._spikingformer import SpikingCausalLM, SpikingformerModel
from spikeformers.neurons import LIF, mark_padding

RESIDUALS = ("add", "or")

PRESETS: dict[str, dict[str, Any]] = {
    "bispikclm-tiny": {
        "hidden_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "max_position_embeddings": 256,
    },
    "bispikclm-125m": {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 2048,
    },
    "bispikclm-350m": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "max_position_embeddings": 2048,
    },
    "bispikclm-1.3b": {
        "hidden_size": 2048,
        "num_hidden_layers": 24,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
    },
}


@strict(accept_kwargs=True)
class BiSpikCLMConfig(SpikingConfig):
    """Configuration of BiSpikCLM; shape, norms and positions in ``SpikingConfig``."""

    model_type = "bispikclm"
    neuron: ClassVar[str] = "lif"
    attention: ClassVar[str] = "sfsa"

    vocab_size: int = 50272
    max_position_embeddings: int = 2048
    steps: int = 4
    """T of the paper, 2 or 4."""
    decay: float = 0.9
    """beta."""
    learn_threshold: bool = False
    """Learn V_th, one number per neuron layer."""

    residual: str = "add"
    """"add" (a sum of spike trains, integers 0..2L+1) or "or" (stays in {0, 1})."""

    attention_threshold: float = 1.0
    """V_th of the edges of the attention graph, in coincidences times the scale."""
    learn_attention_threshold: bool = False
    """Learn it, one number per head."""
    attention_scale: float = 1.0
    """s on the coincidences; none was seen in the paper."""
    learn_attention_scale: bool = False
    """Learn s, one number per head."""

    spiking_head: bool = False
    """The paper's head reads the normed mean over steps, real numbers; true puts SN before it."""
    firing_rate_weight: float = 0.0

    def validate_architecture(self) -> None:
        """Raise ConfigError for fields from which no model can be built."""
        super().validate_architecture()
        one_of(self, "residual", RESIDUALS)
        between(self, "attention_threshold", 0.0, math.inf)
        between(self, "attention_scale", 0.0, math.inf)


def _lif(config: BiSpikCLMConfig, threshold: float, learned: tuple[int, ...] | None = None) -> LIF:
    return LIF(
        config.decay,
        threshold,
        "delayed",
        config.surrogate,
        config.surrogate_sharpness,
        learned,
    )


def make_fire(config: BiSpikCLMConfig, width: int) -> Fire:
    """SN: norm, then LIF with binary spikes."""
    return Fire(
        _lif(config, config.threshold, (1,) if config.learn_threshold else None),
        make_norm(config.norm, width, config.norm_eps, config.neuron_gain),
    )


class BinaryAttention(nn.Module):
    """Spikes in, spikes out: SFSA between four spike-driven linear maps."""

    chains: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("fire_in", "query", "fire_query"),
        ("fire_in", "key", "fire_key"),
        ("fire_in", "value", "fire_value"),
        ("out", "fire_out"),
    )
    """Modules that data pass through one after another, by name."""

    def __init__(self, config: BiSpikCLMConfig, layer: int) -> None:
        super().__init__()
        width, heads = config.hidden_size, config.num_attention_heads
        self.layer, self.heads, self.head_width = layer, heads, config.head_width
        # The stream is binary where it enters the first block, and with "or" everywhere.
        reads_counts = config.residual == "add" and layer > 0
        self.fire_in = make_fire(config, width) if reads_counts else None
        self.query = SpikeLinear(width, width, config.bias)
        self.key = SpikeLinear(width, width, config.bias)
        self.value = SpikeLinear(width, width, config.bias)
        self.fire_query = make_fire(config, width)
        self.fire_key = make_fire(config, width)
        self.fire_value = make_fire(config, width)
        learned = (heads, 1, 1) if config.learn_attention_threshold else None
        self.core = SFSA(
            _lif(config, config.attention_threshold, learned),
            config.attention_scale,
            heads,
            config.learn_attention_scale,
        )
        self.out = SpikeLinear(width, width, config.bias)
        self.fire_out = make_fire(config, width)

    def forward(
        self,
        x: Tensor,
        allowed: Tensor | Pairs,
        bias: Tensor | None,
        cache: Cache | None,
        want_weights: bool,
    ) -> tuple[Tensor, Tensor | None]:
        spikes = x if self.fire_in is None else self.fire_in(x)
        q = split_heads(self.fire_query(self.query(spikes)), self.head_width)
        k = split_heads(self.fire_key(self.key(spikes)), self.head_width)
        v = split_heads(self.fire_value(self.value(spikes)), self.head_width)
        if cache is not None:
            k, v = append(cache, k, v, self.layer)
        edges = None
        if want_weights:
            assert isinstance(allowed, Tensor)
            edges = self.core.weights(q, k, allowed, bias)
        o = self.core(q, k, v, allowed, bias) if edges is None else edges @ v
        return self.fire_out(self.out(merge_heads(o))), edges


class BinaryMLP(nn.Module):
    """SN, then SFFN: two spike-driven linear maps, each followed by SN."""

    chains: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("fire_in", "up", "fire_hidden", "down", "fire_out"),
    )
    """Modules that data pass through one after another, by name."""

    def __init__(self, config: BiSpikCLMConfig) -> None:
        super().__init__()
        width, hidden = config.hidden_size, config.intermediate_size
        assert hidden is not None
        self.fire_in = make_fire(config, width)
        self.up = SpikeLinear(width, hidden, config.bias)
        self.fire_hidden = make_fire(config, hidden)
        self.down = SpikeLinear(hidden, width, config.bias)
        self.fire_out = make_fire(config, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fire_out(self.down(self.fire_hidden(self.up(self.fire_in(x)))))
        return out


class BinaryBlock(GradientCheckpointingLayer):
    """SFSA and SFFN on the residual stream of spikes ``[S, B, T, D]``."""

    def __init__(self, config: BiSpikCLMConfig, layer: int) -> None:
        super().__init__()
        self.attention = BinaryAttention(config, layer)
        self.mlp = BinaryMLP(config)
        self.residual = config.residual
        kind = nn.Dropout if config.residual == "add" else SpikeDropout
        self.dropout = kind(config.dropout)

    def join(self, stream: Tensor, spikes: Tensor) -> Tensor:
        """Add, or (of bits) stream or spikes."""
        spikes = self.dropout(spikes)
        total = stream + spikes
        return total if self.residual == "add" else total - stream * spikes

    def forward(
        self,
        x: Tensor,
        allowed: Tensor | Pairs,
        bias: Tensor | None = None,
        cache: Cache | None = None,
        want_weights: bool = False,
        counted: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """``counted`` ``[B, T]`` masks padding, which statistics of the neurons leave out."""
        if self.training or counted is not None:  # here, where checkpointing computes it again
            mark_padding(self, counted)
        y, weights = self.attention(x, allowed, bias, cache, want_weights)
        x = self.join(x, y)
        return self.join(x, self.mlp(x)), weights


class BiSpikCLMModel(SpikingformerModel):
    """Backbone without a head; ``hidden_states[0]`` is the mean of the embedding's spikes."""

    config: BiSpikCLMConfig
    config_class = BiSpikCLMConfig
    _no_split_modules: ClassVar[list[str]] = ["BinaryBlock"]
    encoder: Fire

    @staticmethod
    def make_block(config: BiSpikCLMConfig, layer: int) -> nn.Module:
        return BinaryBlock(config, layer)

    @staticmethod
    def make_encoder(config: BiSpikCLMConfig) -> Fire:
        return make_fire(config, config.hidden_size)

    @property
    def stream(self) -> tuple[str, str]:
        if self.config.residual == "or":
            return "binary", "0, 1"
        return "integer", f"0, 1, ... {2 * self.config.num_hidden_layers + 1}"


class BiSpikCLMForCausalLM(SpikingCausalLM):
    """Next-token prediction; ``generate`` uses a key-value cache of spikes."""

    config_class = BiSpikCLMConfig
    _no_split_modules: ClassVar[list[str]] = ["BinaryBlock"]
    model: BiSpikCLMModel

    def __init__(self, config: BiSpikCLMConfig) -> None:
        super().__init__(config, BiSpikCLMModel(config), bias=False)

    @staticmethod
    def make_head_neuron(config: BiSpikCLMConfig) -> LIF | None:
        return _lif(config, config.threshold) if config.spiking_head else None

    def logits_of(self, hidden: Tensor) -> Tensor:
        """Head on the normed mean; with a spiking head, that mean is its current for S steps."""
        if self.head_neuron is None:
            return self.lm_head(hidden)
        current = hidden.expand(self.config.steps, *hidden.shape)
        return self.lm_head(self.head_neuron(current)).mean(0)

    def expand_to_binary(self) -> BiSpikCLMForCausalLM:
        """Return a copy: every spike already is 0 or 1."""
        return copy.deepcopy(self).eval()
