"""Energy: count the events of a real run, price them, audit operands. One tracer for all."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spikeformers.energy.auditing.audit import (
        REQUIREMENTS,
        SCOPES,
        AuditReport,
        audit,
        check_request,
    )
    from spikeformers.energy.auditing.operand_history import OperandHistory
    from spikeformers.energy.auditing.recorder import Row
    from spikeformers.energy.counting.forward_pass import trace
    from spikeformers.energy.counting.neurobench import neurobench_metrics
    from spikeformers.energy.counting.spike_statistics import (
        density_by_position,
        density_of,
        neuron_names,
        raster_of,
        winners_of_sentence,
    )
    from spikeformers.energy.counting.trace import COMPONENTS, Operand, Product, Trace
    from spikeformers.energy.pricing.break_even import BreakEven, break_even
    from spikeformers.energy.pricing.estimate import FullReport, estimate
    from spikeformers.energy.pricing.ledger import Ledger, ledger_of
    from spikeformers.energy.pricing.paper_sum import (
        PAPER,
        RULES,
        EnergyReport,
        Prices,
        Share,
        count_over,
        energy_of,
    )
    from spikeformers.energy.pricing.price_table import Cost, PriceTable, load_table, read_table
    from spikeformers.energy.pricing.work_items import (
        FP16,
        FP32,
        INT8,
        Phase,
        Precision,
        WorkItem,
    )
    from spikeformers.energy.pricing.workload import Assumptions, work_of

    # Earlier names, which continue to work.
    Side = OperandHistory
    Table = PriceTable
    Work = WorkItem

_MODULE_OF = {
    "Assumptions": "pricing.workload",
    "AuditReport": "auditing.audit",
    "BreakEven": "pricing.break_even",
    "COMPONENTS": "counting.trace",
    "Cost": "pricing.price_table",
    "EnergyReport": "pricing.paper_sum",
    "FP16": "pricing.work_items",
    "FP32": "pricing.work_items",
    "FullReport": "pricing.estimate",
    "INT8": "pricing.work_items",
    "Ledger": "pricing.ledger",
    "Operand": "counting.trace",
    "OperandHistory": "auditing.operand_history",
    "PAPER": "pricing.paper_sum",
    "Phase": "pricing.work_items",
    "Precision": "pricing.work_items",
    "PriceTable": "pricing.price_table",
    "Prices": "pricing.paper_sum",
    "Product": "counting.trace",
    "REQUIREMENTS": "auditing.audit",
    "RULES": "pricing.paper_sum",
    "Row": "auditing.recorder",
    "SCOPES": "auditing.audit",
    "Share": "pricing.paper_sum",
    "Trace": "counting.trace",
    "WorkItem": "pricing.work_items",
    "audit": "auditing.audit",
    "break_even": "pricing.break_even",
    "check_request": "auditing.audit",
    "count_over": "pricing.paper_sum",
    "density_by_position": "counting.spike_statistics",
    "density_of": "counting.spike_statistics",
    "energy_of": "pricing.paper_sum",
    "estimate": "pricing.estimate",
    "ledger_of": "pricing.ledger",
    "load_table": "pricing.price_table",
    "neurobench_metrics": "counting.neurobench",
    "neuron_names": "counting.spike_statistics",
    "raster_of": "counting.spike_statistics",
    "read_table": "pricing.price_table",
    "trace": "counting.forward_pass",
    "winners_of_sentence": "counting.spike_statistics",
    "work_of": "pricing.workload",
}
_EARLIER_NAMES = {"Side": "OperandHistory", "Table": "PriceTable", "Work": "WorkItem"}

__all__ = [
    "COMPONENTS",
    "FP16",
    "FP32",
    "INT8",
    "PAPER",
    "REQUIREMENTS",
    "RULES",
    "SCOPES",
    "Assumptions",
    "AuditReport",
    "BreakEven",
    "Cost",
    "EnergyReport",
    "FullReport",
    "Ledger",
    "Operand",
    "OperandHistory",
    "Phase",
    "Precision",
    "PriceTable",
    "Prices",
    "Product",
    "Row",
    "Share",
    "Side",
    "Table",
    "Trace",
    "Work",
    "WorkItem",
    "audit",
    "break_even",
    "check_request",
    "count_over",
    "density_by_position",
    "density_of",
    "energy_of",
    "estimate",
    "ledger_of",
    "load_table",
    "neurobench_metrics",
    "neuron_names",
    "raster_of",
    "read_table",
    "trace",
    "winners_of_sentence",
    "work_of",
]


def __getattr__(name: str) -> Any:
    """Load a name from its module when it is first used: prices are read without torch."""
    current = _EARLIER_NAMES.get(name, name)
    if current not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[current]}"), current)
    globals()[name] = value
    return value
