"""Config and sizes of the spiking vision transformer; ``spiking_vit`` has the equations."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from spikeformers.attention import ATTENTIONS, ORDERS, Attention
from spikeformers.errors import ConfigError
from spikeformers.layers import ROLE_NEURONS
from spikeformers.models._auto_map import InstalledCode
from spikeformers.models._checks import at_least_one, between, check_fields, few_steps, one_of
from spikeformers.models.control import TwinPositions, vision_twin
from spikeformers.neurons import SURROGATES

POSITIONS = ("conv", "learned", "none")
NOT_FOR_IMAGES = ("cwssa", "softmax")
"""Attentions that this config does not allow: the causal one, and the one without spikes."""

_CIFAR: dict[str, Any] = {"image_size": 32, "num_channels": 3, "num_hidden_layers": 2}
PRESETS: dict[str, dict[str, Any]] = {
    "a2os2a-digits": {
        **{"image_size": 8, "num_channels": 1, "num_hidden_layers": 2},
        **{"hidden_size": 64, "num_attention_heads": 4, "sps_stages": 2, "sps_pools": 1},
        **{"intermediate_size": 128, "num_labels": 10},
    },
    "a2os2a-cifar-2-256": {**_CIFAR, "hidden_size": 256, "num_attention_heads": 8},
    "a2os2a-cifar-2-384": {**_CIFAR, "hidden_size": 384, "num_attention_heads": 12},
    "a2os2a-cifar-2-512": {**_CIFAR, "hidden_size": 512, "num_attention_heads": 8},
    "a2os2a-nmnist": {
        **{"image_size": 34, "num_channels": 2, "frames": True, "steps": 10, "num_labels": 10},
        **{"hidden_size": 128, "num_attention_heads": 4, "num_hidden_layers": 2},
        **{"sps_stages": 3, "sps_pools": 1, "intermediate_size": 256},
    },
    "a2os2a-dvs-gesture": {
        **{"image_size": 128, "num_channels": 2, "frames": True, "steps": 16, "num_labels": 11},
        **{"hidden_size": 256, "num_attention_heads": 8, "num_hidden_layers": 2, "sps_pools": 4},
    },
    "a2os2a-imagenet-10-512": {
        **{"image_size": 224, "num_channels": 3, "num_hidden_layers": 10, "hidden_size": 512},
        **{"num_attention_heads": 8, "sps_pools": 4, "num_labels": 1000},
    },
}


@strict(accept_kwargs=True)
class SpikingViTConfig(InstalledCode, PreTrainedConfig):
    """Every choice of the spiking vision transformer; a field a choice, its default here only."""

    model_type = "spiking_vit"
    spiking: ClassVar[bool] = True
    neuron: ClassVar[str] = "lif"
    causal: ClassVar[bool] = False
    # What attention cores of language models may vary, and a vision model does not.
    wta: ClassVar[str] = "hard"
    winners: ClassVar[int] = 1
    weight_digits: ClassVar[int] = 2
    winner_weight: ClassVar[str] = "one"
    surrogate_temperature: ClassVar[float] = 1.0
    levels: ClassVar[int] = 1
    learn_attention_scale: ClassVar[bool] = False

    image_size: int = 32
    num_channels: int = 3
    frames: bool = False
    """The input is ``steps`` frames of events, one per simulation step, instead of one image that
    is the same at every step. ``num_channels`` are then polarities, 2."""
    hidden_size: int = 384
    num_hidden_layers: int = 2
    num_attention_heads: int = 12
    intermediate_size: int | None = None
    """Hidden width of the MLP; 4 * hidden_size unless given."""
    sps_stages: int = 4
    """Convolutions that split the image; their widths double up to hidden_size."""
    sps_pools: int = 2
    """How many of them, the last, halve the image."""
    position: str = "conv"
    """"conv" (a convolution over spikes, as in Spikformer), "learned" or "none". Unspecified."""

    steps: int = 4
    """T of the paper: simulation steps S."""
    decay: float = 0.5
    """Of the binary neurons, 1 - 1/tau."""
    threshold: float = 1.0
    surrogate: str = "arctan"
    surrogate_sharpness: float = 2.0
    """Unspecified by the paper, as the surrogate is."""

    attention: str = "a2os2a"
    query_neuron: str | None = None
    """The values that the projection of Q emits: "binary", "relu" or "ternary"; likewise for K and
    V. The defaults are binary, relu and ternary for A2OS2A, and binary for the others."""
    key_neuron: str | None = None
    value_neuron: str | None = None
    ternary_decay: float = 0.25
    threshold_ratio: float = 0.5
    """Ternary neuron: its threshold in units of threshold."""
    attention_order: str = "scores"
    """A2OS2A: "scores", (Q K^T) V, or "state", Q (K^T V)."""
    attention_scale: float | None = None
    """SSA and WSSA; 0.125 and 1/sqrt(head width) unless given. A2OS2A has none."""
    attention_norm: bool = False
    """A batch norm between Q K^T V and its neuron; the paper's equation has none."""
    attention_threshold: float = 1.0
    """V_th of that neuron."""
    output_projection: bool = True
    """W_o and its norm after that neuron. Unspecified by the paper; false adds the spikes."""

    norm_eps: float = 1e-5
    dropout: float = 0.0
    initializer_range: float = 0.02

    def card_rows(self) -> dict[str, str]:
        """The rows of a model card: what spikes."""
        return {
            "attention": self.attention,
            "Q, K, V": f"{self.query_neuron}, {self.key_neuron}, {self.value_neuron}",
            "simulation steps": str(self.steps),
        }

    def __post_init__(self, **kwargs: Any) -> None:
        check_fields(self, kwargs)
        if self.intermediate_size is None:
            self.intermediate_size = 4 * self.hidden_size
        roles = ATTENTIONS.get(self.attention, Attention).default_neurons
        for role, kind in zip(("query", "key", "value"), roles, strict=True):
            if getattr(self, f"{role}_neuron") is None:
                setattr(self, f"{role}_neuron", kind)
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Raise ConfigError for fields from which no model can be built."""
        one_of(self, "attention", tuple(a for a in ATTENTIONS if a not in NOT_FOR_IMAGES))
        one_of(self, "attention_order", ORDERS)
        one_of(self, "position", POSITIONS)
        one_of(self, "surrogate", tuple(SURROGATES))
        for key in ("query_neuron", "key_neuron", "value_neuron"):
            one_of(self, key, ROLE_NEURONS)
        for key in (
            *("image_size", "num_channels", "hidden_size", "num_hidden_layers"),
            *("num_attention_heads", "intermediate_size", "sps_stages"),
        ):
            at_least_one(self, key)
        few_steps(self)
        for key in (
            *("threshold", "attention_threshold", "surrogate_sharpness", "threshold_ratio"),
            "initializer_range",
        ):
            between(self, key, 0.0, math.inf)
        for key in ("decay", "ternary_decay"):
            between(self, key, -1e-9, 1 + 1e-9)
        between(self, "dropout", -1e-9, 1.0)
        if self.attention_scale is not None:
            between(self, "attention_scale", 0.0, math.inf)
        if not 0 <= self.sps_pools <= self.sps_stages:
            raise ConfigError(
                f"sps_pools is {self.sps_pools}; it must lie between 0 and sps_stages "
                f"({self.sps_stages})."
            )
        if self.image_size % 2**self.sps_pools:
            raise ConfigError(
                f"image_size {self.image_size} cannot be halved {self.sps_pools} times (sps_pools)."
            )
        for key, divisor in (
            ("num_attention_heads", self.num_attention_heads),
            ("sps_stages", 2 ** (self.sps_stages - 1)),
        ):
            if self.hidden_size % divisor:
                raise ConfigError(
                    f"hidden_size {self.hidden_size} does not divide by {divisor} ({key})."
                )

    def dense_twin(self, positions: TwinPositions | None = None) -> PreTrainedConfig:
        """Config of a ViT of this shape; ``positions`` as of `control_of`."""
        return vision_twin(self, positions)

    @property
    def head_width(self) -> int:
        """K, the width of one head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def patch_size(self) -> int:
        """Pixels along a side of a patch."""
        return int(2**self.sps_pools)

    @property
    def num_patches(self) -> int:
        """T, the patches of an image."""
        return (self.image_size // self.patch_size) ** 2
