"""What WD- and WE-Spikingformer share: config, sublayers, block, backbone.

    X' = SN(Norm(X));  Q, K, V = SN(Norm(X' W_q)), SN(Norm(X' W_k)), SN(Norm(X' W_v))
    X <- X + Norm(SN(Attention(Q, K, V)) W_o)                          membrane shortcut
    X <- X + Norm(SN(Norm(SN(Norm(X)) W_1)) W_2)

Winner-Take-All Spiking Transformer for Language Modeling, https://arxiv.org/abs/2604.11321.
Unspecified by the paper, a config field each: where norms stand (``pre_norm``,
``projection_norm``, ``output_norm``), which norm, the neuron after attention, position encoding,
initialisation, and what the head reads. With ``pre_norm=False`` the block is the paper's as
rebuilt from Spikingformer; docs/log.md says why the default differs.

Shapes: S simulation steps, B batch, T tokens, D width, H heads, K per head, J keys.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import ModelOutput

from spikeformers.attention import COMPETITIONS, SSA, WTA, Attention, SoftmaxAttention
from spikeformers.errors import ConfigError, nearest
from spikeformers.layers import NORMS, RelativeBias, SpikeLinear, make_norm
from spikeformers.neurons import ILIF, LIF, NEURONS, NILIF, SURROGATES, TLIF, Neuron

POSITIONS = ("learned", "relative", "both", "none")


@strict(accept_kwargs=True)
class SpikingformerConfig(PreTrainedConfig):
    """Every choice of a WTA spiking transformer; a field a choice, its default here only."""

    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]
    causal: ClassVar[bool] = True
    attentions: ClassVar[tuple[str, ...]] = ("cwssa", "ssa", "softmax")

    vocab_size: int = 50257
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int | None = None
    """Hidden width of the MLP; 4 * hidden_size unless given."""
    max_position_embeddings: int = 1024

    attention: str = "cwssa"
    wta: str = "hard"
    winners: int = 3
    """K of wta="top_k"."""
    winner_weight: str = "one"
    """"one" (the paper's K ones a row) or "mean" (1/K)."""
    attention_scale: float | None = None
    """s; levels/sqrt(head width) unless given, 0.125 for SSA. Unspecified by the paper."""
    learn_attention_scale: bool = True
    """Learn s, one number a head. It is the surrogate's inverse temperature as well."""
    surrogate_temperature: float = 1.0
    """tau of the softmax in the backward pass of hard and top-K. Unspecified by the paper."""

    neuron: str = "ni-lif"
    levels: int = 4
    """D of "T x D": the largest count an integer neuron emits in one step."""
    steps: int = 1
    """T of "T x D": simulation steps S."""
    decay: float = 0.5
    threshold: float = 1.0
    """Threshold of LIF (membrane units) or initial amplitude of T-LIF."""
    threshold_ratio: float = 0.5
    amplitude: str = "learnable"
    reset: str = "soft"
    surrogate: str = "arctan"
    surrogate_sharpness: float = 2.0
    integer_gradient: str = "rectangular"
    """NI-LIF and I-LIF: "rectangular" (the source's) or "sigmoid" (a softplus' derivative)."""
    surrogate_margin: float = 0.0
    """Rectangular integer gradient: it is one on [-margin, levels + margin]."""
    surrogate_leak: float = 0.0
    """Rectangular integer gradient: its value beyond that window."""

    norm: str = "layer"
    norm_eps: float = 1e-5
    pre_norm: bool = True
    projection_norm: bool = True
    output_norm: bool = False
    neuron_gain: float = 1.0
    """Initial scale of the norm in front of a neuron: one over its threshold."""
    position: str | None = None
    """"learned" (absolute), "relative" (a bias on the scores), "both" or "none"; unless given,
    "relative", but "learned" for SSA, whose scores are no competition that a bias could sway."""
    relative_slope: float = 1.0
    """Where the relative bias starts: ALiBi's slopes times this."""
    spiking_head: bool = True
    """A neuron in front of the language-model head, so that the head is spike-driven too."""
    dropout: float = 0.0
    initializer_range: float = 0.02
    bias: bool = True
    tie_word_embeddings: bool = True
    use_cache: bool = True

    firing_rate_weight: float = 0.05
    """Weight of the firing-rate term of the loss; 0, the paper's silence, switches it off."""
    firing_rate_target: float = 0.1
    """Density (non-zero fraction) above which a neuron layer's spikes cost."""

    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.intermediate_size is None:
            self.intermediate_size = 4 * self.hidden_size
        if self.position is None:
            self.position = "learned" if self.attention == "ssa" else "relative"
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Refuse what no model can be built from (ConfigError)."""
        for key, known in (
            ("attention", self.attentions),
            ("wta", COMPETITIONS),
            ("neuron", NEURONS),
            ("norm", NORMS),
            ("position", POSITIONS),
            ("surrogate", tuple(SURROGATES)),
            ("winner_weight", ("one", "mean")),
            ("integer_gradient", ("rectangular", "sigmoid")),
        ):
            value = getattr(self, key)
            if value not in known:
                raise ConfigError(
                    f"{key}={value!r} is unknown; one of {', '.join(known)}.{nearest(value, known)}"
                )
        if self.attention == "ssa" and self.position in ("relative", "both"):
            raise ConfigError(
                f"attention='ssa' multiplies its scores with V, so position={self.position!r} "
                "would add reals to them; use position='learned' or 'none'."
            )
        for key in (
            *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"),
            *("intermediate_size", "max_position_embeddings", "steps", "levels", "winners"),
        ):
            value = getattr(self, key)
            if not isinstance(value, int) or isinstance(value, bool):
                raise ConfigError(f"{key} must be a whole number, not {value!r}.")
            if value < 1:
                raise ConfigError(f"{key} must be at least 1, not {value}.")
        for key, low, high in (
            ("attention_scale", 0.0, math.inf),
            ("surrogate_temperature", 0.0, math.inf),
            ("surrogate_sharpness", 0.0, math.inf),
            ("threshold", 0.0, math.inf),
            ("neuron_gain", 0.0, math.inf),
            ("dropout", -1e-9, 1.0),
            ("decay", -1e-9, 1 + 1e-9),
        ):
            value = getattr(self, key)
            if value is None and key == "attention_scale":
                continue
            if not isinstance(value, (int, float)) or not low < value < high:
                span = "greater than 0" if high == math.inf else "between 0 and 1"
                raise ConfigError(f"{key} must be a number {span}, not {value!r}.")
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"hidden_size {self.hidden_size} does not divide into "
                f"{self.num_attention_heads} heads."
            )

    @property
    def head_width(self) -> int:
        """K, the width of one head."""
        return self.hidden_size // self.num_attention_heads


Model = TypeVar("Model", bound=PreTrainedModel)


@dataclass
class SpikingformerOutput(ModelOutput):
    """Output of the backbone; ``last_hidden_state`` ``[B, T, D]``, averaged over S."""

    last_hidden_state: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class SpikingLMOutput(ModelOutput):
    """Output of a language model; ``loss`` is ``lm_loss + rate_loss``."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    lm_loss: Tensor | None = None
    rate_loss: Tensor | None = None


def make_neuron(config: SpikingformerConfig) -> Neuron:
    """One neuron layer of the configured kind."""
    if config.neuron in ("ni-lif", "i-lif"):
        kind = NILIF if config.neuron == "ni-lif" else ILIF
        return kind(
            config.levels,
            config.decay,
            config.integer_gradient,  # type: ignore[arg-type]
            config.surrogate_sharpness,
            config.surrogate_margin,
            config.surrogate_leak,
        )
    if config.neuron == "t-lif":
        return TLIF(
            config.decay,
            config.threshold_ratio,
            config.reset,  # type: ignore[arg-type]
            config.amplitude,  # type: ignore[arg-type]
            config.threshold,
        )
    return LIF(
        config.decay,
        config.threshold,
        config.reset,  # type: ignore[arg-type]
        config.surrogate,
        config.surrogate_sharpness,
    )


def make_head_neuron(config: SpikingformerConfig) -> Neuron | None:
    """The neuron in front of the head, or None; its counts are whole, since 1/D starves logits."""
    if not config.spiking_head:
        return None
    whole = copy.copy(config)
    whole.neuron = "i-lif" if config.neuron == "ni-lif" else config.neuron
    return make_neuron(whole)


def make_attention(config: SpikingformerConfig) -> Attention:
    """The configured attention core."""
    scale = config.attention_scale
    heads, learn = config.num_attention_heads, config.learn_attention_scale
    if config.attention == "ssa":
        return SSA(0.125 if scale is None else scale, heads, learn)
    scale = config.levels / math.sqrt(config.head_width) if scale is None else scale
    if config.attention == "softmax":
        return SoftmaxAttention(scale, heads, learn)
    return WTA(
        scale,
        config.wta,  # type: ignore[arg-type]
        config.winners,
        config.surrogate_temperature,
        config.winner_weight,  # type: ignore[arg-type]
        heads,
        learn,
    )


class Fire(nn.Module):
    """Norm, then neuron: ``SN(Norm(x))``; without the norm where ``norm`` is false."""

    def __init__(self, config: SpikingformerConfig, width: int, norm: bool) -> None:
        super().__init__()
        name = config.norm if norm else "none"
        self.norm = make_norm(name, width, config.norm_eps, config.neuron_gain)
        self.neuron = make_neuron(config)

    def forward(self, x: Tensor) -> Tensor:
        spikes: Tensor = self.neuron(self.norm(x))
        return spikes


class SpikingAttention(nn.Module):
    """Spikes in, heads of spikes through the attention core, membrane current out."""

    def __init__(self, config: SpikingformerConfig, layer: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.layer, self.heads = layer, config.num_attention_heads
        self.fire_in = Fire(config, width, config.pre_norm)
        self.query = SpikeLinear(width, width, config.bias)
        self.key = SpikeLinear(width, width, config.bias)
        self.value = SpikeLinear(width, width, config.bias)
        self.fire_query = Fire(config, width, config.projection_norm)
        self.fire_key = Fire(config, width, config.projection_norm)
        self.fire_value = Fire(config, width, config.projection_norm)
        self.core = make_attention(config)
        # One winner's V row already is spikes; sums of rows have to fire again.
        one_row = self.core.weights_are_binary and self.core.winners_per_query == 1
        self.fire_out = None if one_row else Fire(config, width, norm=True)
        self.out = SpikeLinear(width, width, config.bias)
        self.out.ends_residual = True
        self.out_norm = make_norm(
            config.norm if config.output_norm else "none", width, config.norm_eps
        )

    def _heads(self, x: Tensor) -> Tensor:
        """``[..., B, T, D]`` to ``[..., B, H, T, K]``."""
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2)

    def forward(
        self,
        x: Tensor,
        allowed: Tensor,
        bias: Tensor | None,
        cache: Cache | None,
        want_weights: bool,
    ) -> tuple[Tensor, Tensor | None]:
        spikes = self.fire_in(x)
        q = self._heads(self.fire_query(self.query(spikes)))
        k = self._heads(self.fire_key(self.key(spikes)))
        v = self._heads(self.fire_value(self.value(spikes)))
        if cache is not None:
            k, v = _append(cache, k, v, self.layer)
        self.core.score_unit = _inexact(self.fire_query.neuron.unit * self.fire_key.neuron.unit)
        weights = None
        if self.fire_in.neuron.expanded:
            y, weights = self._expanded(q, k, v, allowed, bias)
        else:
            y = self.core(q, k, v, allowed, bias)
            if want_weights:
                weights = self.core.weights(q, k, allowed, bias)
        y = y.transpose(-3, -2).flatten(-2)
        if self.fire_out is not None:
            y = self.fire_out(y)
        y = self.out_norm(self.out(y))
        return y, weights if want_weights else None

    def _expanded(
        self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Attention over binary sub-steps: one competition on the sum over all pairs."""
        q_unit, k_unit, v_unit = (
            fire.neuron.unit for fire in (self.fire_query, self.fire_key, self.fire_value)
        )
        pairs = torch.einsum("dsbhtk,esbhjk->sbhtj", q, k)
        # The core takes any q k^T: hand it the summed scores as q against an identity k.
        eye = torch.eye(pairs.shape[-1], device=pairs.device, dtype=pairs.dtype)
        weights = self.core.weights(pairs * (q_unit * k_unit), eye, allowed, bias)
        y = torch.matmul(weights, v)
        return y if self.fire_out is None else y.sum(0) * v_unit, weights


def _inexact(unit: float) -> float | None:
    """``unit`` unless it is a power of two, whose multiples floats add without rounding."""
    return None if math.frexp(unit)[0] == 0.5 else unit


def _append(cache: Cache, k: Tensor, v: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """Append to a Transformers cache, which holds ``[B, H, J, S * K]`` (batch first for beams)."""
    lead, width = k.shape[:-4], k.shape[-1]

    def pack(x: Tensor) -> Tensor:
        return x.flatten(0, -5).permute(1, 2, 3, 0, 4).flatten(-2)

    def unpack(x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, width)).permute(3, 0, 1, 2, 4).unflatten(0, lead)

    k_all, v_all = cache.update(pack(k), pack(v), layer)
    return unpack(k_all), unpack(v_all)


class SpikingMLP(nn.Module):
    """Two spike-driven linear maps; no GELU."""

    def __init__(self, config: SpikingformerConfig) -> None:
        super().__init__()
        width, hidden = config.hidden_size, config.intermediate_size
        assert hidden is not None
        self.fire_in = Fire(config, width, config.pre_norm)
        self.up = SpikeLinear(width, hidden, config.bias)
        self.fire_hidden = Fire(config, hidden, config.projection_norm)
        self.down = SpikeLinear(hidden, width, config.bias)
        self.down.ends_residual = True
        self.out_norm = make_norm(
            config.norm if config.output_norm else "none", width, config.norm_eps
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out_norm(self.down(self.fire_hidden(self.up(self.fire_in(x)))))
        return y


class SpikingBlock(GradientCheckpointingLayer):
    """Attention and MLP on the membrane stream ``[S, B, T, D]``."""

    def __init__(self, config: SpikingformerConfig, layer: int) -> None:
        super().__init__()
        self.attention = SpikingAttention(config, layer)
        self.mlp = SpikingMLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        allowed: Tensor,
        bias: Tensor | None = None,
        cache: Cache | None = None,
        want_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        y, weights = self.attention(x, allowed, bias, cache, want_weights)
        x = x + self.dropout(y)
        return x + self.dropout(self.mlp(x)), weights


class SpikingformerPreTrainedModel(PreTrainedModel):
    """Weight initialisation and loading for every head."""

    config: SpikingformerConfig
    config_class = SpikingformerConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["SpikingBlock"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            std = self.config.initializer_range
            if getattr(module, "ends_residual", False):  # GPT-2's rule
                std /= math.sqrt(2 * self.config.num_hidden_layers)
            nn.init.normal_(module.weight, std=std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
            nn.init.constant_(module.weight, getattr(module, "initial_gain", 1.0))
            if isinstance(module, nn.LayerNorm):
                nn.init.zeros_(module.bias)
        elif isinstance(module, RelativeBias):
            module.reset_parameters()
        elif isinstance(module, Attention):
            nn.init.constant_(module.log_scale, math.log(module.initial_scale))
        elif isinstance(module, TLIF):
            nn.init.constant_(module.amplitude, module.initial_amplitude)
            module.calibrated.fill_(module.mode != "first-batch")


class SpikingformerModel(SpikingformerPreTrainedModel):
    """Embedding, blocks, mean over simulation steps, final norm."""

    def __init__(self, config: SpikingformerConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        learned = config.position in ("learned", "both")
        self.embed_positions = (
            nn.Embedding(config.max_position_embeddings, config.hidden_size) if learned else None
        )
        relative = config.position in ("relative", "both")
        self.relative = nn.ModuleList(
            RelativeBias(
                config.num_attention_heads,
                config.max_position_embeddings,
                config.causal,
                config.relative_slope,
            )
            for _ in range(config.num_hidden_layers if relative else 0)
        )
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(
            SpikingBlock(config, layer) for layer in range(config.num_hidden_layers)
        )
        self.norm = make_norm(config.norm, config.hidden_size, config.norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embed_tokens = value  # type: ignore[assignment]

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **_: Any,
    ) -> SpikingformerOutput:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        use_cache = (self.config.use_cache if use_cache is None else use_cache) and (
            self.config.causal and not self.training
        )
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        cache = past_key_values if use_cache else None
        past = cache.get_seq_length() if cache is not None else 0
        tokens = x.shape[1]
        limit = self.config.max_position_embeddings
        if past + tokens > limit and self.embed_positions is not None:
            raise ConfigError(
                f"{past + tokens} tokens do not fit the {limit} positions this model has; "
                "shorten the input or raise max_position_embeddings and retrain."
            )
        if self.embed_positions is not None:
            if position_ids is None:
                position_ids = _positions(attention_mask, past, tokens, x.device)
            x = x + self.embed_positions(position_ids)
        if attention_mask is not None:
            x = x * attention_mask[:, -tokens:, None].to(x.dtype)
        allowed = _allowed(attention_mask, past, tokens, self.config.causal, x.device)

        x = self.dropout(x).unsqueeze(0)
        if self.config.steps > 1:
            x = x.expand(self.config.steps, -1, -1, -1)
        hidden, maps = [], []
        for layer, block in enumerate(self.layers):
            if output_hidden_states:
                hidden.append(x.mean(0))
            bias = self.relative[layer](tokens, past + tokens, x.device) if self.relative else None
            x, weights = block(x, allowed, bias, cache, bool(output_attentions))
            if weights is not None:
                maps.append(weights.mean(0))
        last = self.norm(x.mean(0))
        if output_hidden_states:
            hidden.append(last)
        return SpikingformerOutput(
            last_hidden_state=last,
            past_key_values=cache,
            hidden_states=tuple(hidden) if output_hidden_states else None,
            attentions=tuple(maps) if output_attentions else None,
        )


def _positions(mask: Tensor | None, past: int, tokens: int, device: torch.device) -> Tensor:
    """Position of each token, counted from the first that is not padding, ``[B or 1, T]``."""
    if mask is None:
        return torch.arange(past, past + tokens, device=device).unsqueeze(0)
    return (mask.long().cumsum(-1) - 1).clamp_min(0)[:, -tokens:]


def _allowed(
    mask: Tensor | None, past: int, tokens: int, causal: bool, device: torch.device
) -> Tensor:
    """Bool mask of the keys each query may see, ``[B or 1, 1, T, J]``."""
    keys = past + tokens
    allowed = torch.ones(tokens, keys, dtype=torch.bool, device=device)
    if causal:
        allowed = allowed.tril(past)
    allowed = allowed[None, None]
    return allowed if mask is None else allowed & mask[:, None, None, :].bool()


Activity = list[tuple[Tensor, Tensor]]


def track_rates(model: SpikingformerPreTrainedModel) -> Activity | None:
    """Have every neuron report its activity in the coming forward, if a penalty is set."""
    rates: Activity | None = None
    if model.training and model.config.firing_rate_weight > 0:
        rates = []
    for module in model.modules():
        if isinstance(module, Neuron):
            module.activity = rates
    return rates


def rate_loss(config: SpikingformerConfig, rates: Activity | None) -> Tensor | None:
    """``weight * sum_l mean_count_l * [density_l > target]`` over neuron layers l.

    A layer at or under its target costs nothing, so the term switches itself off. None without a
    penalty.
    """
    if not rates:
        return None
    counts, densities = (torch.stack(column) for column in zip(*rates, strict=True))
    rates.clear()  # or the neurons would keep this graph until the next forward
    return config.firing_rate_weight * (counts * (densities > config.firing_rate_target)).sum()


def total(lm_loss: Tensor | None, rate: Tensor | None) -> Tensor | None:
    """Loss to minimise: task plus firing-rate term."""
    return lm_loss if lm_loss is None or rate is None else lm_loss + rate


@torch.no_grad()
def expanded(model: Model) -> Model:
    """Return a copy that computes the same logits from binary sub-steps only.

    Every neuron emits ``[levels, S, ...]`` zeros and ones, the value of a spike is folded into the
    weights behind it, and the head is untied. For checking and for hardware; not for training or
    saving. Raises ConfigError for ternary neurons, whose spikes have a sign and do not expand.
    """
    neurons = [m for m in model.modules() if isinstance(m, Neuron)]
    if any(neuron.spike_type == "ternary" for neuron in neurons):
        raise ConfigError(
            "expand_to_binary() needs binary or integer neurons; t-lif spikes have a sign."
        )
    for neuron in neurons:
        neuron.activity = None
    twin = copy.deepcopy(model).eval()
    head = twin.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.clone())
    for module in twin.modules():
        if isinstance(module, Neuron):
            module.expanded = True
        elif isinstance(module, SpikeLinear):
            module.fold((neurons[-1] if module is head else neurons[0]).unit)
    return twin
