"""Reports: pictures, one HTML page, model cards, what a model is made of."""

from spikeformers.reporting.card import add_zeroshot, model_card, training_card
from spikeformers.reporting.conversion import measure_pair, report_conversion
from spikeformers.reporting.conversion_page import conversion_rows
from spikeformers.reporting.describe import describe
from spikeformers.reporting.gather import by_point, outside_blocks, windows_of
from spikeformers.reporting.pair import Trained, report_pair
from spikeformers.reporting.pair_page import engine_note, pair_rows
from spikeformers.reporting.sentences import sentence_card
from spikeformers.storage import write_text

__all__ = [
    "Trained",
    "add_zeroshot",
    "by_point",
    "conversion_rows",
    "describe",
    "engine_note",
    "measure_pair",
    "model_card",
    "outside_blocks",
    "pair_rows",
    "report_conversion",
    "report_pair",
    "sentence_card",
    "training_card",
    "windows_of",
    "write_text",
]
