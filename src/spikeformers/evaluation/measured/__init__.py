"""Measured on this machine: time, memory, bytes read and, if there is a meter, joules."""

from __future__ import annotations

from spikeformers.evaluation.measured.programs import (
    Program,
    TextWork,
    Whole,
    engine_program,
    open_forward,
    open_torch,
    text_program,
    whole_program,
)
from spikeformers.evaluation.measured.records import (
    Energy,
    Measured,
    MeasuredPhase,
    MeasuredReport,
    Memory,
    Spread,
)
from spikeformers.evaluation.measured.run import measure

Text = TextWork  # the earlier name, which continues to work

__all__ = [
    "Energy",
    "Measured",
    "MeasuredPhase",
    "MeasuredReport",
    "Memory",
    "Program",
    "Spread",
    "TextWork",
    "Whole",
    "engine_program",
    "measure",
    "open_forward",
    "open_torch",
    "text_program",
    "whole_program",
]
