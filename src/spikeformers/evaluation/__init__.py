"""Evaluation: perplexity and bits per byte, masked loss, agreement of two models, speed."""

from __future__ import annotations

from spikeformers.evaluation.agreement import AgreementReport, agreement
from spikeformers.evaluation.likeness import Likeness, likeness_of
from spikeformers.evaluation.perplexity import PerplexityReport, context_of, perplexity
from spikeformers.evaluation.speed import Speed, decoding_speed, decoding_speeds

__all__ = [
    "AgreementReport",
    "Likeness",
    "PerplexityReport",
    "Speed",
    "agreement",
    "context_of",
    "decoding_speed",
    "decoding_speeds",
    "likeness_of",
    "perplexity",
]
