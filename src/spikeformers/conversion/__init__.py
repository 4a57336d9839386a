"""Conversion: a trained dense language model becomes a spiking one, one method a file."""

from __future__ import annotations

from spikeformers.conversion.convert import Converted, convert, convert_module
from spikeformers.conversion.loading import load_source
from spikeformers.conversion.plan import Plan, Row, make_plan
from spikeformers.conversion.thresholds import Rule, pair_thresholds, threshold_of

__all__ = [
    "Converted",
    "Plan",
    "Row",
    "Rule",
    "convert",
    "convert_module",
    "load_source",
    "make_plan",
    "pair_thresholds",
    "threshold_of",
]
