"""Measured on this machine: time, memory, bytes counted and, where there is a meter, joules."""

from __future__ import annotations

from spikeformers.evaluation.measured.programs import (
    Program,
    Text,
    Whole,
    open_forward,
    open_torch,
    text_program,
    whole_program,
)
from spikeformers.evaluation.measured.records import (
    Energy,
    Measured,
    MeasuredReport,
    Memory,
    Phase,
    Spread,
)
from spikeformers.evaluation.measured.run import measure
from spikeformers.evaluation.measured.tables import Table, tables

__all__ = [
    "Energy",
    "Measured",
    "MeasuredReport",
    "Memory",
    "Phase",
    "Program",
    "Spread",
    "Table",
    "Text",
    "Whole",
    "measure",
    "open_forward",
    "open_torch",
    "tables",
    "text_program",
    "whole_program",
]
