"""NeurTransformer: a trained dense language model, converted to spiking blocks.

    source's embedding -> blocks (source's norms and residual stream;
        attention and feed-forward spiking, dense, or one of each) -> source's norm -> source's head

https://arxiv.org/abs/2510.00133. The paper converts GPT-2; this takes the architectures in
``_sources``. It gives no equation, T, data or learning rate: every choice is a field of
``NeurTransformerConfig``. ``spikeformers.conversion`` makes the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from spikeformers.errors import ConfigError
from spikeformers.models._adapters import refuse_adapter_of_spiking_head, refuse_tied_adapter
from spikeformers.models._cache import admit
from spikeformers.models._converted import SpikingFeedForward, SpikingSelfAttention, TokenNeurons
from spikeformers.models._generation import BY_OWNER, CachedGenerationMixin
from spikeformers.models._masks import fitted
from spikeformers.models._neurtransformer_config import (
    NeurTransformerConfig,
    neurtransformer_config,
)
from spikeformers.models._sources import Source, source_config, source_of, windows
from spikeformers.models._spiking_inputs import neuron_of, spike_head, spiking_attention

__all__ = [
    "NeurTransformerConfig",
    "NeurTransformerForCausalLM",
    "NeurTransformerPreTrainedModel",
    "install",
    "neurtransformer_config",
    "spiking_feed_forward",
    "spiking_self_attention",
]


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
        self.keep_head_and_loss(self.model)
        self.post_init()

    @property
    def source(self) -> Source:
        """The paths of the parts of the source's architecture."""
        return source_of(self.model.config.model_type)

    def spiking_attentions(self) -> dict[int, SpikingSelfAttention]:
        """Layer number -> spiking attention; layers with softmax attention are left out."""
        blocks = self.source.blocks(self.model)
        return {
            layer: getattr(block, self.source.attention)
            for layer, block in enumerate(blocks)
            if self.config.attention_spikes(layer)
        }

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
        fire = getattr(self.get_output_embeddings(), "fire", None)
        embeddings: nn.Embedding = self.model.resize_token_embeddings(
            new_num_tokens, pad_to_multiple_of, mean_resizing
        )
        if "head" in self.config.maps:  # resizing made a head without neurons
            spike_head(self.model, self.config, fire)
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
        refuse_adapter_of_spiking_head(self.get_output_embeddings())
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
            **{BY_OWNER: True, **kwargs},
        )
        return out


def install(model: nn.Module, config: NeurTransformerConfig) -> None:
    """Put spiking modules, still without weights, into a source model as ``config`` describes."""
    source = source_of(model.config.model_type)  # type: ignore[union-attr,arg-type]
    for layer, block in enumerate(source.blocks(model)):
        if config.attention_spikes(layer):
            setattr(block, source.attention, spiking_self_attention(model.config, config, layer))
        elif not config.is_dense(layer, "attention"):
            dense_attention = getattr(block, source.attention)
            setattr(
                block,
                source.attention,
                spiking_attention(dense_attention, source, model.config, config),
            )
        if not config.is_dense(layer, "mlp"):
            setattr(block, source.mlp, spiking_feed_forward(model.config, config))
    if "head" in config.maps:
        spike_head(model, config)


def spiking_feed_forward(described: Any, config: NeurTransformerConfig) -> SpikingFeedForward:
    """The spiking feed-forward block of the source that ``described`` describes."""
    return SpikingFeedForward(
        source_of(described.model_type).shape(described),
        config.ffn,
        config.steps,
        code=config.code,
        unrolled=config.unrolled,
        pipelined=config.schedule == "pipelined",
        token=_token_neurons(config),
    )


def spiking_self_attention(
    described: Any, config: NeurTransformerConfig, layer: int
) -> SpikingSelfAttention:
    """The spiking attention of one block of the source that ``described`` describes."""
    return SpikingSelfAttention(
        source_of(described.model_type).shape(described),
        layer,
        attention=config.attention,
        wta=config.wta,
        winners=config.winners,
        digits=config.weight_digits,
        neuron=config.attention_neuron,
        steps=config.steps,
        code=config.code,
        norm=config.ssa_norm,
        unrolled=config.unrolled,
        token=_token_neurons(config),
    )


def _token_neurons(config: NeurTransformerConfig) -> TokenNeurons | None:
    return partial(neuron_of, config) if config.threshold == "token" else None
