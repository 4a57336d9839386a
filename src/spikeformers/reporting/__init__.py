"""Rendering only: pages, pictures, tables, model cards of what was measured elsewhere.

`spikeformers.studies` measures and returns data; these functions turn it into text and pictures.
Names are loaded when they are first used: a table on a terminal needs neither torch nor matplotlib.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spikeformers.reporting.card import add_zeroshot, model_card, training_card
    from spikeformers.reporting.classifier_card import sentence_card
    from spikeformers.reporting.compare_page import write_comparison
    from spikeformers.reporting.conversion_page import conversion_rows, report_conversion
    from spikeformers.reporting.energy_page import write_energy_report
    from spikeformers.reporting.image_card import vision_card
    from spikeformers.reporting.image_page import write_image_page
    from spikeformers.reporting.pair_page import engine_note, pair_rows, report_pair
    from spikeformers.reporting.tables import Table, markdown
    from spikeformers.storage import write_text

_FILE_OF = {
    "Table": "reporting.tables",
    "add_zeroshot": "reporting.card",
    "conversion_rows": "reporting.conversion_page",
    "engine_note": "reporting.pair_page",
    "markdown": "reporting.tables",
    "model_card": "reporting.card",
    "pair_rows": "reporting.pair_page",
    "report_conversion": "reporting.conversion_page",
    "report_pair": "reporting.pair_page",
    "sentence_card": "reporting.classifier_card",
    "training_card": "reporting.card",
    "vision_card": "reporting.image_card",
    "write_comparison": "reporting.compare_page",
    "write_energy_report": "reporting.energy_page",
    "write_image_page": "reporting.image_page",
    "write_text": "storage",
}

__all__ = [
    "Table",
    "add_zeroshot",
    "conversion_rows",
    "engine_note",
    "markdown",
    "model_card",
    "pair_rows",
    "report_conversion",
    "report_pair",
    "sentence_card",
    "training_card",
    "vision_card",
    "write_comparison",
    "write_energy_report",
    "write_image_page",
    "write_text",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its file."""
    if name not in _FILE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"spikeformers.{_FILE_OF[name]}"), name)
