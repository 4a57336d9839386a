"""WD-Spikingformer: a causal language model of winner-take-all spiking attention (CWSSA).

    embedding (+ positions), repeated S times -> blocks -> mean over S -> norm -> (SN) -> head

Winner-Take-All Spiking Transformer for Language Modeling, https://arxiv.org/abs/2604.11321.
Unspecified by the paper: widths (24 x 1024 x 16 heads fits its 0.4 B), tying of the head, position
encoding; see ``SpikingformerConfig`` for the rest.
"""

from __future__ import annotations

from typing import Any

from huggingface_hub.dataclasses import strict
from torch import Tensor
from transformers.cache_utils import Cache
from transformers.generation import GenerationMixin

from spikeformers.models._config import SpikingformerConfig
from spikeformers.models._spikingformer import (
    SpikingformerModel,
    SpikingLM,
    SpikingLMOutput,
    track_rates,
)

PRESETS: dict[str, dict[str, Any]] = {
    "wd-spikingformer-tiny": {
        "hidden_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "max_position_embeddings": 256,
    },
    "wd-spikingformer-small": {
        "hidden_size": 320,
        "num_hidden_layers": 6,
        "num_attention_heads": 5,
        "max_position_embeddings": 512,
    },
    "wd-spikingformer-base": {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 1024,
    },
    "wd-spikingformer-0.4b": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "max_position_embeddings": 1024,
    },
    "wd-spikingformer-1.0b": {
        "hidden_size": 1792,
        "num_hidden_layers": 24,
        "num_attention_heads": 28,
        "max_position_embeddings": 1024,
    },
}


@strict(accept_kwargs=True)
class WDSpikingformerConfig(SpikingformerConfig):
    """Configuration of WD-Spikingformer; fields and defaults in ``SpikingformerConfig``."""

    model_type = "wd_spikingformer"


class WDSpikingformerModel(SpikingformerModel):
    """Backbone without a head."""

    config_class = WDSpikingformerConfig


class WDSpikingformerForCausalLM(SpikingLM, GenerationMixin):
    """Next-token prediction; ``generate`` uses a key-value cache of spikes."""

    config_class = WDSpikingformerConfig

    def __init__(self, config: WDSpikingformerConfig) -> None:
        super().__init__(config, WDSpikingformerModel(config), bias=False)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> SpikingLMOutput:
        """Logits ``[B, T, V]``; ``labels`` ``[B, T]`` are shifted inside, -100 is ignored."""
        rates = track_rates(self)
        out = self.model(
            input_ids,
            attention_mask,
            position_ids,
            past_key_values,
            inputs_embeds,
            use_cache,
            output_attentions,
            output_hidden_states,
        )
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        return self._finish(out, out.last_hidden_state[:, keep], labels, rates, **kwargs)
