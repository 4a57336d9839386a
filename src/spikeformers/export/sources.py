"""What the engine does not run of a dense source: errors that name it.

The engine takes every source that converts (`spikeformers.models._sources`), with its norms of
blocks and of heads, rotary positions by layer, sliding windows and capped logits.
"""

from __future__ import annotations

from typing import Any

from spikeformers.errors import ConfigError
from spikeformers.models._sources import rotary_of, source_of

ACTIVATIONS = {
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu_erf",
    "gelu_python": "gelu_erf",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
}
"""The names of activations in Transformers, and those in the engine."""
ROTARY = ("default", "linear", "llama3", "yarn")
"""Kinds of rotary positions whose frequencies do not depend on the length of a text."""
OPTIONS = {
    "add_cross_attention": "cross-attention reads a second text",
    "use_bidirectional_attention": "queries would see later keys, and its attention is causal",
    "attn_logit_softcapping": "it has no capped attention scores (Transformers ignores the option)",
}
"""Options of a source's config that the engine does not run, and why."""


def refuse_source(model: Any) -> None:
    """ConfigError for a dense source model that the engine does not run."""
    config = model.config
    kind = config.model_type
    activation = source_of(kind).shape(config).activation
    if activation not in ACTIVATIONS:
        raise ConfigError(
            f"the engine does not know the activation {activation!r}; it knows "
            f"{', '.join(ACTIVATIONS)}."
        )
    for name, reason in OPTIONS.items():
        if (value := getattr(config, name, None)) not in (None, False):
            raise ConfigError(f"the engine does not run this {kind}: {name}={value}: {reason}.")
    for layer in range(config.num_hidden_layers):
        rotary = rotary_of(model, layer)
        if rotary is not None and rotary.kind not in ROTARY:
            raise ConfigError(
                f"the engine does not know rotary positions of type {rotary.kind!r}, whose "
                f"frequencies depend on the text; it knows {', '.join(ROTARY)}."
            )
