"""The config of a NeurTransformer: its source, and how each part of it was converted.

https://arxiv.org/abs/2510.00133 gives no equation, T, data or learning rate: every choice is a
field here.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from spikeformers.attention.power_of_two import check_digits
from spikeformers.errors import ConfigError, nearest
from spikeformers.models._auto_map import InstalledCode
from spikeformers.models._checks import at_least_one, check_fields, config_errors, few_steps
from spikeformers.models._sources import source_config, source_of
from spikeformers.models.control import TwinPositions
from spikeformers.neurons.phase import MOST_STEPS, MOST_STEPS_OF_PRODUCTS
from spikeformers.neurons.token_if import FEWEST_STEPS
from spikeformers.neurons.token_if import MOST_STEPS as MOST_TOKEN_STEPS

FFN_METHODS = ("signed-if", "qcfs", "ni-lif", "kept")
ATTENTIONS = ("ssa", "cwssa", "power-of-two", "kept")
SPIKING_MAPS = ("ffn", "qkv", "out", "head")
OF_THE_SOURCE = ("num_hidden_layers", "max_position_embeddings")
SHARED = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings")
"""Fields that begin as the source's and may be changed; the source's record follows."""


@strict(accept_kwargs=True)
class NeurTransformerConfig(InstalledCode, PreTrainedConfig):
    """The dense source of the model, and how each part of it was converted."""

    model_type = "neurtransformer"
    spiking: ClassVar[bool] = True
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]
    causal: ClassVar[bool] = True

    source: dict[str, Any] | None = None
    """Config of the dense source model, with its model_type."""
    ffn: str = "signed-if"
    """"signed-if", "qcfs", "ni-lif" or "kept" (dense). The paper names no method."""
    attention: str = "ssa"
    """"ssa" (the paper's), "cwssa" (winner-take-all), "power-of-two" (softmax's weights rounded
    to a few binary digits, `spikeformers.attention.power_of_two`) or "kept" (the source's
    softmax)."""
    wta: str = "hard"
    """Competition of attention="cwssa": "hard" or "top_k"."""
    winners: int = 3
    """K of wta="top_k"; each winner weighs 1/K."""
    weight_digits: int = 4
    """Binary digits of a weight of attention="power-of-two", 1 to 4."""
    steps: int = 16
    """T: the simulation steps that encode a value. Unspecified by the paper."""
    threshold: str = "channel"
    """The threshold of neurons at a linear map's input: one per "channel", calibrated and fixed,
    or one per "token", from that token's own values (`spikeformers.neurons.token_if`, after
    SpikingBrain; code="phase", ffn="signed-if" or "kept"). Not in the paper."""
    spiking_maps: list[str] | None = None
    """With threshold="token", the linear maps whose input spikes: "ffn", "qkv" (inputs of q, k, v),
    "out" (of the attention's output map), "head". None: those of the converted parts. "ffn" is
    required with a converted ffn, "qkv" and "out" with a converted attention; they are optional
    for a kept (softmax) attention, as "head" always is."""
    token_reach: float = 8.0
    """With threshold="token": the largest count stands for this many times the token's mean |x|; a
    second, coarser neuron takes larger values."""
    power_of_two_units: bool = False
    """With threshold="token": round each token's unit up to a power of two, which is a shift."""
    code: str = "rate"
    """How a pair of neurons encodes a value: "rate" (equal spikes, T sizes) or "phase" (a spike at
    step t weighs 2^-t, 2^T - 1 sizes; signed-if only, at most 16 steps, 8 where attention spikes).
    Not in the paper."""
    attention_neuron: str = "signed-if"
    """Neurons of q, k and v: "signed-if", or "if" (no negative spikes). Unspecified by the paper,
    whose name for them is LIF-like (tau = 2); these do not leak."""
    ssa_norm: str = "rms"
    """Norm of SSA's sums, per head, before they fire: "rms" or "none". Unspecified."""
    schedule: str = "layerwise"
    """When QCFS's IF neurons (ungated feed-forward) get their input: "layerwise", after all T
    steps of the map before, so that the conversion is exact, or "pipelined", step by step, where
    it is not. Unspecified by the paper."""
    unrolled: bool = False
    """Run the T steps of signed-if and IF neurons one by one, instead of passing on each
    neuron's sum over them. The same sums, spikes and energy, T times slower; forward only."""
    dense: list[str] | None = None
    """Modules left as they are in the source, such as "3.attention" or "0.mlp"."""
    use_cache: bool = True

    vocab_size: int | None = None
    hidden_size: int | None = None
    intermediate_size: int | None = None
    num_hidden_layers: int | None = None
    num_attention_heads: int | None = None
    max_position_embeddings: int | None = None
    tie_word_embeddings: bool | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        check_fields(self, kwargs)
        if self.source is not None:  # shape, and special tokens unless given, are the source's
            described = source_config(self.source)
            shape = source_of(described.model_type).shape(described)
            for key in (*OF_THE_SOURCE, *(key for key in SHARED if getattr(self, key) is None)):
                setattr(self, key, getattr(described, key))
            self.hidden_size, self.intermediate_size = shape.width, shape.hidden
            self.num_attention_heads = shape.heads
        super().__post_init__(**kwargs)

    def source_values(self) -> dict[str, Any]:
        """The source's config as it is now: with this one's vocabulary, special tokens, tying."""
        if self.source is None:
            raise ConfigError(
                "a NeurTransformer is converted from a trained model, and this config names no "
                "source. Make one with `spikeformers convert`."
            )
        return {**self.source, **{key: getattr(self, key) for key in SHARED}}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they are saved."""
        values: dict[str, Any] = super().to_dict()
        if self.source is not None:
            values["source"] = self.source_values()
        return values

    def validate_architecture(self) -> None:
        """Raise ConfigError for fields from which no model can be built."""
        for key, choices in (
            ("ffn", FFN_METHODS),
            ("attention", ATTENTIONS),
            ("wta", ("hard", "top_k")),
            ("threshold", ("channel", "token")),
            ("code", ("rate", "phase")),
            ("attention_neuron", ("signed-if", "if")),
            ("ssa_norm", ("rms", "none")),
            ("schedule", ("layerwise", "pipelined")),
        ):
            value = getattr(self, key)
            if value not in choices:
                raise ConfigError(
                    f"{key}={value!r} is unknown; one of {', '.join(choices)}."
                    f"{nearest(value, choices)}"
                )
        few_steps(self)
        at_least_one(self, "winners")
        check_digits(self.weight_digits)
        check_token_threshold(self)
        most = MOST_STEPS if self.attention == "kept" else MOST_STEPS_OF_PRODUCTS
        if self.code == "phase" and not (
            self.steps <= most
            and self.ffn in ("signed-if", "kept")
            and self.attention_neuron == "signed-if"
        ):
            raise ConfigError(
                f"code='phase' is for signed-if neurons and at most {most} steps with "
                f"attention={self.attention!r}; asked for ffn={self.ffn!r}, "
                f"attention_neuron={self.attention_neuron!r}, {self.steps} steps."
            )
        if self.source is not None and self.source.get("model_type") not in (None, ""):
            source_of(self.source["model_type"])

    def dense_twin(self, positions: TwinPositions | None = None) -> PreTrainedConfig:
        """Config of the dense model that this was converted from."""
        if positions is not None:
            raise ConfigError(
                "the dense twin of a converted model is its source, whose positions are its own; "
                f"leave positions={positions!r} out."
            )
        if self.source is None:
            raise ConfigError("this config has no source, so that it has no dense twin.")
        return source_config(self.source)

    def card_rows(self) -> dict[str, str]:
        """The rows of a model card: what spikes."""
        rows = {"attention": self.attention, "feed-forward": f"{self.ffn}, T = {self.steps}"}
        if self.threshold == "token":
            rows["threshold"] = f"per token, maps: {', '.join(self.maps)}"
        return rows

    @property
    def neuron(self) -> str:
        """Kind of the neurons, for descriptions."""
        if self.threshold == "token":
            return "token-if" + (" and signed-if" if self.attention != "kept" else "")
        kinds = [self.ffn] if self.ffn != "kept" else []
        kinds += ["signed-if"] if self.attention != "kept" and self.ffn != "signed-if" else []
        return " and ".join(kinds)

    @property
    def maps(self) -> tuple[str, ...]:
        """The linear maps whose inputs have a threshold per token; none with one per channel."""
        if self.threshold == "channel":
            return ()
        if self.spiking_maps is not None:
            return tuple(name for name in SPIKING_MAPS if name in self.spiking_maps)
        ffn = () if self.ffn == "kept" else ("ffn",)
        return ffn if self.attention == "kept" else (*ffn, "qkv", "out")

    @property
    def maps_of_attention(self) -> tuple[str, ...]:
        """Those of ``maps`` that a kept attention has."""
        if self.attention != "kept":
            return ()
        return tuple(name for name in self.maps if name in ("qkv", "out"))

    @property
    def needs_tuning(self) -> bool:
        """Whether the attention says something else than the source's until it is trained."""
        return self.attention in ("ssa", "cwssa")

    @property
    def passes_gradients(self) -> bool:
        """Whether the neurons run all steps at once, which a gradient passes; not step by step."""
        return not self.unrolled and self.schedule != "pipelined"

    @property
    def has_gated_blocks(self) -> bool:
        """Whether the source's feed-forward blocks have three matrices, as LLaMA's."""
        described = source_config(self.source_values())
        return source_of(described.model_type).shape(described).gated

    def attention_spikes(self, layer: int) -> bool:
        """Whether spiking attention replaces the source's in a block."""
        return self.attention != "kept" and not self.is_dense(layer, "attention")

    def is_dense(self, layer: int, part: str) -> bool:
        """Whether ``part`` ("attention" or "mlp") of a block is the source's own."""
        if f"{layer}.{part}" in (self.dense or ()):
            return True
        if part == "mlp":
            return self.ffn == "kept"
        return self.attention == "kept" and not self.maps_of_attention


def check_token_threshold(config: NeurTransformerConfig) -> None:
    """Raise ConfigError for fields that need another ``threshold``."""
    maps = config.spiking_maps
    if config.threshold == "channel":
        if maps is not None:
            raise ConfigError(
                f"spiking_maps={maps} is for threshold='token'; with thresholds per channel the "
                "fields ffn and attention decide what spikes."
            )
        if config.power_of_two_units:
            raise ConfigError("power_of_two_units is for threshold='token'; thresholds per channel "
                              "fold into the weights.")  # fmt: skip
        return
    if not FEWEST_STEPS <= config.steps <= MOST_TOKEN_STEPS:
        raise ConfigError(
            f"threshold='token' takes {FEWEST_STEPS} to {MOST_TOKEN_STEPS} steps, not "
            f"{config.steps}; 8 is usual."
        )
    if config.code != "phase" or config.ffn not in ("signed-if", "kept"):
        raise ConfigError(
            "threshold='token' is for code='phase' and ffn='signed-if' or 'kept', not for "
            f"code={config.code!r} and ffn={config.ffn!r}."
        )
    if not (math.isfinite(config.token_reach) and config.token_reach > 0):
        raise ConfigError(f"token_reach must be a number above 0, not {config.token_reach}.")
    _check_maps(config, maps)
    if config.unrolled and (config.maps_of_attention or "head" in config.maps):
        raise ConfigError(
            "unrolled=True runs the steps of feed-forward blocks and spiking attention; the maps "
            "of a kept attention and the head emit counts. Use unrolled=False, whose sums are "
            "the same."
        )


def _check_maps(config: NeurTransformerConfig, maps: list[str] | None) -> None:
    for name in maps or ():
        if name not in SPIKING_MAPS:
            raise ConfigError(
                f"spiking_maps names {name!r}; known: {', '.join(SPIKING_MAPS)}."
                f"{nearest(name, SPIKING_MAPS)}"
            )
    for name, field, kept in (
        ("ffn", "ffn", config.ffn == "kept"),
        *((name, "attention", config.attention == "kept") for name in ("qkv", "out")),
    ):
        if maps is not None and not kept and name not in maps:
            raise ConfigError(
                f"spiking_maps={maps} leaves out {name!r}, which {field}="
                f"{getattr(config, field)!r} needs. Add it, or set {field}='kept'."
            )
    if config.ffn == "kept" and "ffn" in (maps or ()):
        raise ConfigError("spiking_maps names 'ffn', but ffn='kept'; set ffn='signed-if'.")


def neurtransformer_config(**values: Any) -> NeurTransformerConfig:
    """A checked config; ConfigError for values that do not describe a model."""
    with config_errors("this is not the config of a NeurTransformer"):
        return NeurTransformerConfig(**values)
