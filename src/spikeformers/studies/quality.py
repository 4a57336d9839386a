"""Quality and energy of one language model on one text: the measurement that studies share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spikeformers.energy import EnergyReport, energy_of
from spikeformers.evaluation import PerplexityReport, perplexity
from spikeformers.progress import Move, watched
from spikeformers.studies.gather import windows_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from spikeformers.data import TokenSplit

ENERGY_TOKENS = 4096  # of the text, whose events are counted


@dataclass(frozen=True)
class ModelFigures:
    """One model on one text."""

    parameters: int
    quality: PerplexityReport
    """Measured."""
    energy: EnergyReport
    """Estimated from counted events."""


def measure_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    split: TokenSplit,
    *,
    context: int,
    stride: int | None = None,
    tokens: int | None = None,
    energy_tokens: int = ENERGY_TOKENS,
    scoring: Move | None = None,
    counting: Move | None = None,
) -> ModelFigures:
    """Perplexity on ``tokens`` (default: all), and energy on at most ``energy_tokens`` of them.

    The windows are ``context`` tokens long; those whose events are counted are spread over the
    split. ``scoring`` and ``counting`` receive the progress of each. Errors as ``perplexity`` and
    ``energy_of``.
    """
    windows = windows_of(split, context, min(tokens or energy_tokens, energy_tokens))
    quality = perplexity(
        model, tokenizer, split, context=context, stride=stride, max_tokens=tokens,
        progress=scoring,
    )  # fmt: skip
    energy = energy_of(model, watched(windows, counting))
    return ModelFigures(model.num_parameters(), quality, energy)


def selected(report: PerplexityReport, keys: tuple[str, ...]) -> dict[str, Any]:
    """Some of a report's figures."""
    figures: Mapping[str, Any] = report.as_dict()
    return {key: figures[key] for key in keys}
