"""Evaluation: perplexity and bits per byte, masked loss, speed of decoding."""

from __future__ import annotations

from spikeformers.evaluation.perplexity import PerplexityReport, context_of, perplexity
from spikeformers.evaluation.speed import Speed, decoding_speed, decoding_speeds

__all__ = [
    "PerplexityReport",
    "Speed",
    "context_of",
    "decoding_speed",
    "decoding_speeds",
    "perplexity",
]
