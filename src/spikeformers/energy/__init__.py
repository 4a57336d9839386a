"""Energy: count the events of a real run, price them, audit operands. One tracer for all."""

from __future__ import annotations

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
    Cost,
    EnergyReport,
    Prices,
    Share,
    count_over,
    energy_of,
)
from spikeformers.energy.pricing.price_table import PriceTable, load_table, read_table
from spikeformers.energy.pricing.work_items import FP16, FP32, INT8, Phase, Precision, WorkItem
from spikeformers.energy.pricing.workload import Assumptions, work_of

# Earlier names, which continue to work.
Side = OperandHistory
Table = PriceTable
Work = WorkItem

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
