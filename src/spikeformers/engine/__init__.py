"""Event-driven inference: a model packed into one file, which reads only the weights of what fires.

    engine = spikeformers.engine.load("model.engine")
    text = engine.sequence()                       # a cache of bit planes, in pages
    logits = engine.feed(text, [464, 2068])        # logits [V] after the last token
    for token in engine.generate([464, 2068], 100): ...

Neither torch nor Transformers is imported.
"""

from __future__ import annotations

from spikeformers.engine.description import Description, NeuronSpec, NormSpec
from spikeformers.engine.details import LayerDetails, SpikeCost, TokenDetails
from spikeformers.engine.file import Packed, is_engine_file, read, write
from spikeformers.engine.runtime import Engine, EngineSystem, load, load_engine

__all__ = [
    "Description",
    "Engine",
    "EngineSystem",
    "LayerDetails",
    "NeuronSpec",
    "NormSpec",
    "Packed",
    "SpikeCost",
    "TokenDetails",
    "is_engine_file",
    "load",
    "load_engine",
    "read",
    "write",
]
