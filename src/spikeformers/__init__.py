"""Spiking transformers for language.

Importing this package is quick: its names are loaded when they are first used, and the models are
registered with Transformers' Auto classes when those are loaded (`spikeformers._auto`).

    import spikeformers
    from transformers import AutoModelForCausalLM, AutoTokenizer
    model = AutoModelForCausalLM.from_pretrained("runs/demo/spiking")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from spikeformers._auto import register_when_needed

__version__ = "0.1.0"

if TYPE_CHECKING:
    from spikeformers.data import load_corpus, make_tokenizer, tokenize_corpus
    from spikeformers.energy import energy_of
    from spikeformers.evaluation import perplexity
    from spikeformers.models import (
        BiSpikCLMConfig,
        BiSpikCLMForCausalLM,
        SpikingViTConfig,
        SpikingViTForImageClassification,
        WDSpikingformerConfig,
        WDSpikingformerForCausalLM,
        WESpikingformerConfig,
        WESpikingformerForMaskedLM,
        WESpikingformerForSequenceClassification,
        build_config,
        build_model,
        control_of,
        load_model,
    )
    from spikeformers.training import TrainConfig, train

_ROOM_OF = {
    "BiSpikCLMConfig": "models",
    "BiSpikCLMForCausalLM": "models",
    "SpikingViTConfig": "models",
    "SpikingViTForImageClassification": "models",
    "TrainConfig": "training",
    "WDSpikingformerConfig": "models",
    "WDSpikingformerForCausalLM": "models",
    "WESpikingformerConfig": "models",
    "WESpikingformerForMaskedLM": "models",
    "WESpikingformerForSequenceClassification": "models",
    "build_config": "models",
    "build_model": "models",
    "control_of": "models",
    "energy_of": "energy",
    "load_corpus": "data",
    "load_model": "models",
    "make_tokenizer": "data",
    "perplexity": "evaluation",
    "tokenize_corpus": "data",
    "train": "training",
}

__all__ = [
    "BiSpikCLMConfig",
    "BiSpikCLMForCausalLM",
    "SpikingViTConfig",
    "SpikingViTForImageClassification",
    "TrainConfig",
    "WDSpikingformerConfig",
    "WDSpikingformerForCausalLM",
    "WESpikingformerConfig",
    "WESpikingformerForMaskedLM",
    "WESpikingformerForSequenceClassification",
    "build_config",
    "build_model",
    "control_of",
    "energy_of",
    "load_corpus",
    "load_model",
    "make_tokenizer",
    "perplexity",
    "tokenize_corpus",
    "train",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its room."""
    if name not in _ROOM_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_ROOM_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOM_OF})


register_when_needed()
