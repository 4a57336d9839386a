"""Tokens per second of greedy decoding, batch 1, with a key-value cache.

One forward pass reads the prompt; then each token is one forward pass on the token before it. Only
these are timed, after a warm-up; the figure is the median of the repeats. An end-of-text token does
not stop it, so that every repeat does the same work.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from spikeformers.errors import ConfigError
from spikeformers.evaluation.systems import wait_for
from spikeformers.progress import Move, watched

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Speed:
    """Measured wall-clock speed of decoding."""

    tokens_per_second: float
    """Median of the repeats."""
    slowest: float
    fastest: float
    prompt_tokens: int
    new_tokens: int
    repeats: int
    batch_size: int
    threads: int
    device: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def decoding_speed(
    model: PreTrainedModel,
    prompt: Sequence[int],
    *,
    new_tokens: int = 64,
    repeats: int = 5,
    warmup: int = 1,
) -> Speed:
    """Speed of one causal model after the token ids of ``prompt``."""
    return decoding_speeds(
        {"model": model}, prompt, new_tokens=new_tokens, repeats=repeats, warmup=warmup
    )["model"]


def decoding_speeds(
    models: Mapping[str, PreTrainedModel],
    prompt: Sequence[int],
    *,
    new_tokens: int = 64,
    repeats: int = 5,
    warmup: int = 1,
    progress: Move | None = None,
) -> dict[str, Speed]:
    """Speeds of several models, measured in turns, so that a busy machine slows all alike.

    ``progress`` gets the turns taken, and in all.
    """
    if not prompt or new_tokens < 1 or repeats < 1:
        raise ConfigError(
            f"a prompt of at least one token, new_tokens and repeats of at least 1 are needed; "
            f"got {len(prompt)}, {new_tokens} and {repeats}."
        )
    for name, model in models.items():
        longest = getattr(model.config, "max_position_embeddings", None)
        if longest is not None and len(prompt) + new_tokens > longest:
            raise ConfigError(
                f"{len(prompt)} prompt tokens and {new_tokens} new ones do not fit the {longest} "
                f"positions of {name}; ask for fewer."
            )
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for turn in watched(range(warmup + repeats), progress):
        for name, model in models.items():
            took = _decode(model, prompt, new_tokens)
            if turn >= warmup:
                seconds[name].append(took)
    return {
        name: Speed(
            tokens_per_second=new_tokens / statistics.median(seconds[name]),
            slowest=new_tokens / max(seconds[name]),
            fastest=new_tokens / min(seconds[name]),
            prompt_tokens=len(prompt),
            new_tokens=new_tokens,
            repeats=repeats,
            batch_size=1,
            threads=torch.get_num_threads(),
            device=str(model.device),
        )
        for name, model in models.items()
    }


def _decode(model: Any, prompt: Sequence[int], new_tokens: int) -> float:
    """Seconds for ``new_tokens`` steps after the prompt."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            ids = torch.tensor([list(prompt)], device=model.device)
            out = model(input_ids=ids, use_cache=True)
            wait_for(model)
            start = time.perf_counter()
            for _ in range(new_tokens):
                token = out.logits[:, -1:].argmax(-1)
                out = model(input_ids=token, past_key_values=out.past_key_values, use_cache=True)
            wait_for(model)
            return time.perf_counter() - start
    finally:
        model.train(training)
