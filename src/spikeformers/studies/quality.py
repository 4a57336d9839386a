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
WINDOWS = 8  # of a batch
LOGITS = 2**25
"""Of a batch, 128 MiB in float32: fewer windows where the vocabulary is large."""


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
    size = windows_of_a_batch(model, context)
    windows = windows_of(split, context, min(tokens or energy_tokens, energy_tokens), size)
    quality = perplexity(
        model, tokenizer, split, context=context, stride=stride, max_tokens=tokens,
        batch_size=size, progress=scoring,
    )  # fmt: skip
    energy = energy_of(model, watched(windows, counting))
    return ModelFigures(model.num_parameters(), quality, energy)


def windows_of_a_batch(model: PreTrainedModel, context: int) -> int:
    """How many windows of ``context`` tokens are read together: as many as LOGITS allow."""
    return max(1, min(WINDOWS, LOGITS // (context * int(model.config.vocab_size))))


def selected(report: PerplexityReport, keys: tuple[str, ...]) -> dict[str, Any]:
    """Some of a report's figures."""
    figures: Mapping[str, Any] = report.as_dict()
    return {key: figures[key] for key in keys}
