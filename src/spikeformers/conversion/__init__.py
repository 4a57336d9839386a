"""Conversion: a trained dense language model becomes a spiking one, one method a file."""

from __future__ import annotations

from spikeformers.conversion.loading import calibration_windows, load_source
from spikeformers.conversion.plan import Plan, Row, make_plan
from spikeformers.conversion.stages import (
    Converted,
    convert,
    convert_module,
    finish,
    refuse_taken,
)
from spikeformers.conversion.thresholds import Rule, pair_thresholds, threshold_of

__all__ = [
    "Converted",
    "Plan",
    "Row",
    "Rule",
    "calibration_windows",
    "convert",
    "convert_module",
    "finish",
    "load_source",
    "make_plan",
    "pair_thresholds",
    "refuse_taken",
    "threshold_of",
]
