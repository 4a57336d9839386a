"""Models with a short name: those that come with this package, and where others come from.

    spikeformers generate books --prompt "It was a dark and stormy night"
    AutoModelForCausalLM.from_pretrained(spikeformers.weights("books"))

A packaged model is one engine file (int8) and what else a model folder needs. PyTorch's weights
are made from the engine's at first use, in the cache folder, so that both hold the same numbers.
Neither torch nor Transformers is imported.
"""

from __future__ import annotations

from spikeformers.packaged.known import KNOWN, KnownModel, ModelSource, PackagedModel, locate
from spikeformers.packaged.restoring import (
    ENGINE,
    RECIPE,
    REST,
    engine_or_path,
    folder_or_path,
    packaged_engine,
    weights,
)

__all__ = [
    "ENGINE",
    "KNOWN",
    "RECIPE",
    "REST",
    "KnownModel",
    "ModelSource",
    "PackagedModel",
    "engine_or_path",
    "folder_or_path",
    "locate",
    "packaged_engine",
    "weights",
]
