"""Text from a causal model or an engine, token by token, printed as soon as it is certain.

    model, tokenizer = spikeformers.load_model("runs/demo/spiking")
    print(spikeformers.generate_text(model, "Return the", tokenizer=tokenizer).text)
    print(spikeformers.generate_text(spikeformers.load_engine("model.engine"), "Return the").text)

Neither torch nor Transformers is imported for an engine.
"""

from __future__ import annotations

from spikeformers.generation.chat import Chat, ChatAnswer, ChatStats
from spikeformers.generation.generating import (
    Generation,
    generate_text,
    prompt_ids,
    why_ended,
)
from spikeformers.generation.text_stream import TextStream

__all__ = [
    "Chat",
    "ChatAnswer",
    "ChatStats",
    "Generation",
    "TextStream",
    "generate_text",
    "prompt_ids",
    "why_ended",
]
