"""Spiking vision transformer with A2OS2A: images in, classes out.

    U = SPS(image), a static image at each of S steps, or one of S frames of events at each
    per block    U <- U + Attention(SN(U));   U <- U + MLP(SN(U))
    Y = head(mean over steps and patches of SN(U))

    Attention(X)  Q, K, V = SN_q(BN(X W_q)), SN_k(BN(X W_k)), SN_v(BN(X W_v))
                  BN(SN(Q K^T V) W_o)                    W_o where ``output_projection``
    MLP(X)        BN(SN(BN(X W_1)) W_2)

A2OS2A, https://arxiv.org/abs/2503.00226: the shortcut adds membranes, so that U is real and each
product in the blocks reads spikes. Every SN is a neuron layer of its own.

Unspecified by the paper, a field each: W_o, positions, heads, what stands between Q K^T V and its
neuron (``attention_norm``, ``attention_threshold``), the surrogate, the stages of SPS.
Other attentions for comparison: "ssa" (Spikformer, binary Q, K and V, a scale) and "wssa" (a
winner-take-all competition).

Shapes: S simulation steps, B images, T patches, D width, H heads, K per head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import ImageClassifierOutput, ModelOutput
from transformers.utils import can_return_tuple

from spikeformers.attention import ATTENTIONS, Attention
from spikeformers.errors import ConfigError
from spikeformers.layers import (
    BatchNorm,
    Fire,
    RoleNeurons,
    SpikeLinear,
    SpikingPatches,
    merge_heads,
    split_heads,
)
from spikeformers.models._loss import share_of
from spikeformers.models._spiking_vit_config import SpikingViTConfig
from spikeformers.neurons import LIF


def _lif(config: SpikingViTConfig, threshold: float | None = None) -> LIF:
    v_th = config.threshold if threshold is None else threshold
    return LIF(config.decay, v_th, "hard", config.surrogate, config.surrogate_sharpness)


class VisionAttention(nn.Module):
    """Membranes in, a current for them out."""

    chains: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("fire_in", "query", "fire_query"),
        ("fire_in", "key", "fire_key"),
        ("fire_in", "value", "fire_value"),
        ("fire_out", "out", "out_norm"),
    )
    """Modules that data pass through one after another, by name."""

    def __init__(self, config: SpikingViTConfig) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.norm_eps
        roles = RoleNeurons.from_config(config)
        self.head_width = config.head_width
        self.fire_in = Fire(_lif(config))
        self.query, self.key, self.value = (SpikeLinear(width, width, bias=False) for _ in range(3))
        self.fire_query, self.fire_key, self.fire_value = (
            Fire(roles.make(str(kind)), BatchNorm(width, eps=eps))
            for kind in (config.query_neuron, config.key_neuron, config.value_neuron)
        )
        self.core: Attention = ATTENTIONS[config.attention].from_config(config)
        norm = BatchNorm(width, eps=eps) if config.attention_norm else None
        self.fire_out = Fire(_lif(config, config.attention_threshold), norm)
        self.out = SpikeLinear(width, width, bias=False) if config.output_projection else None
        self.out_norm = BatchNorm(width, eps=eps) if config.output_projection else None

    def forward(self, u: Tensor, want_weights: bool) -> tuple[Tensor, Tensor | None]:
        spikes = self.fire_in(u)
        q = split_heads(self.fire_query(self.query(spikes)), self.head_width)
        k = split_heads(self.fire_key(self.key(spikes)), self.head_width)
        v = split_heads(self.fire_value(self.value(spikes)), self.head_width)
        patches = q.shape[-2]
        allowed = torch.ones(1, 1, patches, patches, dtype=torch.bool, device=q.device)
        y = self.core(q, k, v, allowed)
        weights = self.core.weights(q, k, allowed, None) if want_weights else None
        y = self.fire_out(merge_heads(y))
        if self.out is not None and self.out_norm is not None:
            y = self.out_norm(self.out(y))
        return y, weights


class VisionMLP(nn.Module):
    """Two spike-driven linear maps."""

    chains: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("fire_in", "up", "fire_hidden", "down", "out_norm"),
    )
    """Modules that data pass through one after another, by name."""

    def __init__(self, config: SpikingViTConfig) -> None:
        super().__init__()
        width, hidden, eps = config.hidden_size, config.intermediate_size, config.norm_eps
        assert hidden is not None
        self.fire_in = Fire(_lif(config))
        self.up = SpikeLinear(width, hidden, bias=False)
        self.fire_hidden = Fire(_lif(config), BatchNorm(hidden, eps=eps))
        self.down = SpikeLinear(hidden, width, bias=False)
        self.out_norm = BatchNorm(width, eps=eps)

    def forward(self, u: Tensor) -> Tensor:
        y: Tensor = self.out_norm(self.down(self.fire_hidden(self.up(self.fire_in(u)))))
        return y


class VisionBlock(GradientCheckpointingLayer):
    """Attention and MLP on the membranes ``[S, B, T, D]``."""

    def __init__(self, config: SpikingViTConfig) -> None:
        super().__init__()
        self.attention = VisionAttention(config)
        self.mlp = VisionMLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, u: Tensor, want_weights: bool = False) -> tuple[Tensor, Tensor | None]:
        y, weights = self.attention(u, want_weights)
        u = u + self.dropout(y)
        return u + self.dropout(self.mlp(u)), weights


@dataclass
class SpikingViTOutput(ModelOutput):
    """Output of the backbone; ``last_hidden_state`` ``[B, T, D]``, spikes averaged over S."""

    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class SpikingViTPreTrainedModel(PreTrainedModel):
    """Weight initialisation and loading."""

    config: SpikingViTConfig
    config_class = SpikingViTConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["VisionBlock"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=self.config.initializer_range)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif (reset := getattr(module, "reset_parameters", None)) is not None:
            reset()
        elif isinstance(module, SpikingViTModel) and module.embed_positions is not None:
            nn.init.trunc_normal_(module.embed_positions, std=self.config.initializer_range)


class SpikingViTModel(SpikingViTPreTrainedModel):
    """Patches, blocks, and the neuron in front of a head."""

    stream = ("real", "membranes, real numbers")

    def __init__(self, config: SpikingViTConfig) -> None:
        super().__init__(config)
        self.embeddings = SpikingPatches(
            config.num_channels,
            config.hidden_size,
            config.sps_stages,
            config.sps_pools,
            config.steps,
            lambda: _lif(config),
            conv_position=config.position == "conv",
            eps=config.norm_eps,
        )
        learned = config.position == "learned"
        shape = (config.num_patches, config.hidden_size)
        self.embed_positions = nn.Parameter(torch.zeros(shape)) if learned else None
        self.layers = nn.ModuleList(VisionBlock(config) for _ in range(config.num_hidden_layers))
        self.fire_out = Fire(_lif(config))
        self.gradient_checkpointing = False
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **_: Any,
    ) -> SpikingViTOutput:
        """``pixel_values`` ``[B, C, H, W]``, or of frames ``[B, S, C, H, W]``.

        Raises ConfigError for another size or number of channels or frames.
        """
        config = self.config
        expected: tuple[int, ...] = (config.num_channels, config.image_size, config.image_size)
        axes = "channels, height, width"
        if config.frames:
            expected, axes = (config.steps, *expected), f"frames, {axes}"
        if tuple(pixel_values.shape[1:]) != expected:
            raise ConfigError(
                f"images of {' x '.join(map(str, pixel_values.shape[1:]))} came, and this model "
                f"takes {' x '.join(map(str, expected))} ({axes})."
            )
        u = self.embeddings(pixel_values)
        if self.embed_positions is not None:
            u = u + self.embed_positions
        hidden, maps = [], []
        for block in self.layers:
            if output_hidden_states:
                hidden.append(u.mean(0))
            u, weights = block(u, bool(output_attentions))
            if weights is not None:
                maps.append(weights.mean(0))
        last = self.fire_out(u).mean(0)
        if output_hidden_states:
            hidden.append(last)
        return SpikingViTOutput(
            last_hidden_state=last,
            hidden_states=tuple(hidden) if output_hidden_states else None,
            attentions=tuple(maps) if output_attentions else None,
        )


class SpikingViTForImageClassification(SpikingViTPreTrainedModel):
    """A linear map of the mean spike rates over patches."""

    chains: ClassVar[tuple[tuple[str, ...], ...]] = (("head",),)
    """Modules that data pass through one after another, by name."""

    def __init__(self, config: SpikingViTConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = SpikingViTModel(config)
        self.head = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> ImageClassifierOutput:
        """Logits ``[B, num_labels]``; ``labels`` are classes ``[B]`` or shares ``[B, labels]``."""
        out = self.model(pixel_values, output_attentions, output_hidden_states, return_dict=True)
        logits = self.head(out.last_hidden_state.mean(1))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        if loss is not None and (share := share_of(labels, **kwargs)) is not None:
            loss = loss * share
        return ImageClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
        )
