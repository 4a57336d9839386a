"""Evaluation: perplexity and bits per byte, masked loss, agreement, speed, images, meters."""

from __future__ import annotations

from spikeformers.evaluation.agreement import AgreementReport, agreement
from spikeformers.evaluation.measured import MeasuredReport, Program, measure
from spikeformers.evaluation.perplexity import PerplexityReport, context_of, perplexity
from spikeformers.evaluation.systems import Speed, decoding_speed, decoding_speeds
from spikeformers.evaluation.vision import Entropy, VisionReport, classify, entropy_of
from spikeformers.evaluation.zeroshot import evaluate_zeroshot

__all__ = [
    "AgreementReport",
    "Entropy",
    "MeasuredReport",
    "PerplexityReport",
    "Program",
    "Speed",
    "VisionReport",
    "agreement",
    "classify",
    "context_of",
    "decoding_speed",
    "decoding_speeds",
    "entropy_of",
    "evaluate_zeroshot",
    "measure",
    "perplexity",
]
