"""Conversion: a trained dense language model becomes a spiking one, one file per method."""

from __future__ import annotations

from spikeformers.conversion.dead_zones import allocate, density_of
from spikeformers.conversion.loading import calibration_windows, load_source
from spikeformers.conversion.plan import Plan, PlanRow, make_plan
from spikeformers.conversion.stages import (
    Converted,
    convert,
    convert_module,
    finish,
    refuse_taken,
    uncalibrated,
)
from spikeformers.conversion.thresholds import Rule, pair_thresholds, threshold_of

Row = PlanRow  # the earlier name, which continues to work

__all__ = [
    "Converted",
    "Plan",
    "PlanRow",
    "Rule",
    "allocate",
    "calibration_windows",
    "convert",
    "convert_module",
    "density_of",
    "finish",
    "load_source",
    "make_plan",
    "pair_thresholds",
    "refuse_taken",
    "threshold_of",
    "uncalibrated",
]
