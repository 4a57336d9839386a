"""WD-Spikingformer: a causal language model of winner-take-all spiking attention (CWSSA).

    embedding (+ positions), repeated S times -> blocks -> mean over S -> norm -> (SN) -> head

Winner-Take-All Spiking Transformer for Language Modeling, https://arxiv.org/abs/2604.11321.
Unspecified by the paper: widths (24 x 1024 x 16 heads fits its 0.4 B), tying of the head, position
encoding; see ``SpikingformerConfig`` for the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from huggingface_hub.dataclasses import strict

from spikeformers.models._config import SpikingformerConfig
from spikeformers.models._dead_zones import with_dead_zones
from spikeformers.models._spikingformer import SpikingCausalLM, SpikingformerModel

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


def preset_fields(sizes: Mapping[str, Any], choices: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a preset: ``sizes``, ``choices``, and dead zones where these leave neurons open."""
    return with_dead_zones(WDSpikingformerConfig, sizes, choices)


class WDSpikingformerModel(SpikingformerModel):
    """Backbone without a head."""

    config_class = WDSpikingformerConfig


class WDSpikingformerForCausalLM(SpikingCausalLM):
    """Next-token prediction; ``generate`` uses a key-value cache of spikes."""

    config_class = WDSpikingformerConfig

    def __init__(self, config: WDSpikingformerConfig) -> None:
        super().__init__(config, WDSpikingformerModel(config), bias=False)
