"""Studies: measuring whole models from their folders, as data. Nothing here prints or draws.

    study = spikeformers.measure_energy("runs/mine", "builtin")     # EnergyStudy
    study.paper.picojoules_per_token, study.full.pair.ratio(study.full.table)
    study.as_dict()                                                 # what --json prints

Each takes ``progress``, which is called with a stage, the number done and the total (None if it is
unknown); `spikeformers.progress.Progress` shows a bar. `spikeformers.reporting` turns their results
into pages, tables and pictures.
"""

from __future__ import annotations

from spikeformers.studies.audit import AuditStudy, audit_folder
from spikeformers.studies.bench import BenchStudy, bench_decode, bench_memory, bench_prefill
from spikeformers.studies.comparison import Comparison, compare
from spikeformers.studies.conversion import measure_conversion
from spikeformers.studies.description import describe
from spikeformers.studies.energy import EnergyStudy, count_and_estimate, measure_energy
from spikeformers.studies.gather import by_point, outside_blocks, windows_of
from spikeformers.studies.images import ImageStudy, evaluate_images
from spikeformers.studies.model_input import ModelInput, read_input
from spikeformers.studies.on_machine import measure_folder
from spikeformers.studies.pair import PairStudy, Trained, measure_pair
from spikeformers.studies.planning import Plan, plan
from spikeformers.studies.quality import ModelFigures, measure_model
from spikeformers.studies.tasks import TaskStudy
from spikeformers.studies.text import TextStudy, evaluate_agreement, evaluate_perplexity

__all__ = [
    "UNITS",
    "AuditStudy",
    "BenchStudy",
    "Comparison",
    "EnergyStudy",
    "ImageStudy",
    "ModelFigures",
    "ModelInput",
    "PairStudy",
    "Plan",
    "TaskStudy",
    "TextStudy",
    "Trained",
    "audit_folder",
    "bench_decode",
    "bench_memory",
    "bench_prefill",
    "by_point",
    "compare",
    "count_and_estimate",
    "describe",
    "evaluate_agreement",
    "evaluate_images",
    "evaluate_perplexity",
    "measure_conversion",
    "measure_energy",
    "measure_folder",
    "measure_model",
    "measure_pair",
    "outside_blocks",
    "plan",
    "read_input",
    "windows_of",
]

UNITS = {
    "reading the text": "bytes",
    "scoring": "tokens",
    "comparing": "tokens",
    "tracing": "sequences",
    "counting events": "batches",
    "counting events of the twin": "batches",
    "measuring on this machine": "turns",
    "classifying": "images",
    "entropy": "batches",
}
"""What the stages of studies count, for `Progress`."""
