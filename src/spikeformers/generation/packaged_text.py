"""A text of a model that comes with the package, and what the engine did for it."""

from __future__ import annotations

from dataclasses import dataclass

from spikeformers.engine import load
from spikeformers.generation.generating import generate_text
from spikeformers.packaged import packaged_engine


@dataclass(frozen=True)
class PackagedText:
    """A generated text; speed is measured, reading the prompt included, the share is counted."""

    prompt: str
    text: str
    tokens_per_second: float
    weights_read: float
    """Share of the weights' bytes that a token read, the prompt's tokens included."""
    threads: int


def packaged_text(
    name: str = "books",
    prompt: str = "It was a dark and stormy night",
    *,
    max_new_tokens: int = 80,
    seed: int = 0,
) -> PackagedText:
    """Let a packaged model continue ``prompt`` on one thread, without torch or Transformers.

    Raises UsageError for a name that no packaged model has, CheckpointError for files that are not
    in this installation, EngineUnavailable where the native kernels are missing.
    """
    engine = load(packaged_engine(name), threads=1)
    written = generate_text(engine, prompt, max_new_tokens=max_new_tokens, seed=seed)
    counted = engine.counters()
    read = counted["weight_bytes"] / counted["tokens"] / engine.dense_weight_bytes
    return PackagedText(prompt, written.text, written.tokens_per_second, read, engine.threads)
