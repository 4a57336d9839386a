"""NeurTransformer: a trained dense language model whose blocks were made to spike.

    source's embedding -> blocks (source's norms and residual stream;
        attention and feed-forward spiking, dense, or one of each) -> source's norm -> source's head

https://arxiv.org/abs/2510.00133. The paper converts GPT-2; this takes the architectures in
``_sources``. It gives no equation, T, data or learning rate: every choice is a field of
``NeurTransformerConfig``. ``spikeformers.conversion`` makes the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from spikeformers.errors import ConfigError, nearest
from spikeformers.models._adapters import refuse_tied_adapter
from spikeformers.models._auto_map import InstalledCode
from spikeformers.models._cache import admit
from spikeformers.models._checks import at_least_one, check_fields, config_errors, few_steps
from spikeformers.models._converted import SpikingFeedForward, SpikingSelfAttention
from spikeformers.models._generation import CachedGenerationMixin
from spikeformers.models._masks import fitted
from spikeformers.models._sources import Source, source_config, source_of, windows
from spikeformers.models.control import TwinPositions
from spikeformers.neurons.phase import MOST_STEPS, MOST_STEPS_OF_PRODUCTS

FFN_METHODS = ("signed-if", "qcfs", "ni-lif", "kept")
ATTENTIONS = ("ssa", "cwssa", "kept")
OF_THE_SOURCE = ("num_hidden_layers", "max_position_embeddings")
SHARED = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings")
"""Fields that begin as the source's and may be changed; the source's record follows."""


@strict(accept_kwargs=True)
class NeurTransformerConfig(InstalledCode, PreTrainedConfig):
    """What the source was, and how each part of it was converted."""

    model_type = "neurtransformer"
    spiking: ClassVar[bool] = True
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]
    causal: ClassVar[bool] = True

    source: dict[str, Any] | None = None
    """Config of the dense source model, with its model_type."""
    ffn: str = "signed-if"
    """"signed-if", "qcfs", "ni-lif" or "kept" (dense). The paper names no method."""
    attention: str = "ssa"
    """"ssa" (the paper's), "cwssa" (winner-take-all) or "kept" (the source's softmax)."""
    wta: str = "hard"
    """Competition of attention="cwssa": "hard" or "top_k"."""
    winners: int = 3
    """K of wta="top_k"; each winner weighs 1/K."""
    steps: int = 16
    """T: simulation steps a value is said in. Unspecified by the paper."""
    code: str = "rate"
    """How a pair of neurons says a value: "rate" (equal spikes, T sizes) or "phase" (a spike at
    step t weighs 2^-t, 2^T - 1 sizes; signed-if only, at most 16 steps, 8 where attention spikes).
    Not in the paper."""
    attention_neuron: str = "signed-if"
    """Neurons of q, k and v: "signed-if", or "if" (no negative spikes). Unspecified by the paper,
    whose name for them is LIF-like (tau = 2); these do not leak."""
    ssa_norm: str = "rms"
    """Norm of SSA's sums, a head each, before they fire: "rms" or "none". Unspecified."""
    schedule: str = "layerwise"
    """When QCFS's IF neurons (ungated feed-forward) hear of their input: "layerwise", after all T
    steps of the map before, so that the conversion is exact, or "pipelined", step by step, where
    it is not. Unspecified by the paper."""
    unrolled: bool = False
    """Run the T steps of signed-if and IF neurons one by one, instead of handing on each neuron's
    sum over them. The same sums, spikes and energy, T times slower; forward only."""
    dense: list[str] | None = None
    """Modules left as the source had them, such as "3.attention" or "0.mlp"."""
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
        """Refuse what no model can be built from (ConfigError)."""
        for key, known in (
            ("ffn", FFN_METHODS),
            ("attention", ATTENTIONS),
            ("wta", ("hard", "top_k")),
            ("code", ("rate", "phase")),
            ("attention_neuron", ("signed-if", "if")),
            ("ssa_norm", ("rms", "none")),
            ("schedule", ("layerwise", "pipelined")),
        ):
            value = getattr(self, key)
            if value not in known:
                raise ConfigError(
                    f"{key}={value!r} is unknown; one of {', '.join(known)}.{nearest(value, known)}"
                )
        few_steps(self)
        at_least_one(self, "winners")
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
        """What spikes, for model cards."""
        return {"attention": self.attention, "feed-forward": f"{self.ffn}, T = {self.steps}"}

    @property
    def neuron(self) -> str:
        """Kind of the neurons, for descriptions."""
        kinds = [self.ffn] if self.ffn != "kept" else []
        kinds += ["signed-if"] if self.attention != "kept" and self.ffn != "signed-if" else []
        return " and ".join(kinds)

    def is_dense(self, layer: int, part: str) -> bool:
        """Whether ``part`` ("attention" or "mlp") of a block stayed as the source had it."""
        kept = self.attention if part == "attention" else self.ffn
        return kept == "kept" or f"{layer}.{part}" in (self.dense or ())


class NeurTransformerPreTrainedModel(PreTrainedModel):
    """Loading and saving; the source initialises its own modules."""

    config: NeurTransformerConfig
    config_class = NeurTransformerConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Nothing is trained from scratch here: weights come from a conversion or a file."""


class NeurTransformerForCausalLM(NeurTransformerPreTrainedModel, CachedGenerationMixin):
    """The source's causal language model with spiking blocks; ``generate`` caches spike counts."""

    def __init__(self, config: NeurTransformerConfig) -> None:
        super().__init__(config)
        described = source_config(config.source_values())
        config.validate_architecture()
        self.model = AutoModelForCausalLM.from_config(described)
        install(self.model, config)
        self.post_init()

    @property
    def source(self) -> Source:
        """Where the parts of the source's architecture are."""
        return source_of(self.model.config.model_type)

    @property
    def windows(self) -> Mapping[int, int]:
        return windows(self.model.config)

    def get_input_embeddings(self) -> nn.Module:
        embeddings: nn.Module = self.model.get_input_embeddings()
        return embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        head: nn.Module = self.model.get_output_embeddings()
        return head

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.model.set_output_embeddings(value)

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> nn.Embedding:
        """As in Transformers; the source's model, its config and its record are resized with it."""
        pad = self.config.pad_token_id
        if new_num_tokens is not None and pad is not None and new_num_tokens <= pad:
            raise ConfigError(
                f"{new_num_tokens} tokens leave no row for pad_token_id {pad}; set "
                "model.config.pad_token_id to a token that stays, or to None."
            )
        embeddings: nn.Embedding = self.model.resize_token_embeddings(
            new_num_tokens, pad_to_multiple_of, mean_resizing
        )
        self.config.vocab_size = self.vocab_size = embeddings.weight.shape[0]
        self.config.source = self.config.source_values()
        return embeddings

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits ``[B, T, V]``; ``labels`` ``[B, T]`` are shifted inside, -100 is ignored."""
        refuse_tied_adapter(self)
        x = input_ids if inputs_embeds is None else inputs_embeds
        if x is not None:
            tokens, past = x.shape[1], 0
            if past_key_values is not None:
                layers = len(self.source.blocks(self.model))
                past = admit(past_key_values, layers, tokens, x.device, self.windows)
            attention_mask = fitted(attention_mask, past + tokens)
        out: CausalLMOutputWithPast = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            labels=labels,
            use_cache=self.config.use_cache if use_cache is None else use_cache,
            output_hidden_states=output_hidden_states,
            logits_to_keep=logits_to_keep,
            return_dict=True,
            **kwargs,
        )
        return out


def neurtransformer_config(**values: Any) -> NeurTransformerConfig:
    """A checked config; ConfigError for what describes no model."""
    with config_errors("this is not the config of a NeurTransformer"):
        return NeurTransformerConfig(**values)


def install(model: nn.Module, config: NeurTransformerConfig) -> None:
    """Put spiking modules, yet without weights, where ``config`` wants them in a source model."""
    source = source_of(model.config.model_type)  # type: ignore[union-attr,arg-type]
    for layer, block in enumerate(source.blocks(model)):
        for part in ("attention", "mlp"):
            if not config.is_dense(layer, part):
                name = source.attention if part == "attention" else source.mlp
                setattr(block, name, spiking_module(model.config, config, layer, part))


def spiking_module(
    described: Any, config: NeurTransformerConfig, layer: int, part: str
) -> SpikingFeedForward | SpikingSelfAttention:
    """The spiking "mlp" or "attention" of one block of the source that ``described`` describes."""
    shape = source_of(described.model_type).shape(described)
    if part == "mlp":
        return SpikingFeedForward(
            shape,
            config.ffn,
            config.steps,
            code=config.code,
            unrolled=config.unrolled,
            pipelined=config.schedule == "pipelined",
        )
    return SpikingSelfAttention(
        shape,
        layer,
        attention=config.attention,
        wta=config.wta,
        winners=config.winners,
        neuron=config.attention_neuron,
        steps=config.steps,
        code=config.code,
        norm=config.ssa_norm,
        unrolled=config.unrolled,
    )
