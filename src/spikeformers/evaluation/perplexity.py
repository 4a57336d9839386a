"""Perplexity and bits per byte by a sliding window; the masked loss of masked models.

    nats per token      H = -1/N sum_i ln p(t_i | its window)
    perplexity          exp(H)            word perplexity   exp(H * N / words)
    bits per byte       H * N / (ln 2 * bytes)

N includes the separator after each document, because the end of a text has to be predicted too;
bytes and words are those of the text alone. Masked models have none of these figures: they get the
mean loss, accuracy and exp(loss) at masked positions, drawn with a given seed and probability.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from spikeformers.data import TokenSplit, mask_tokens
from spikeformers.data.masking import IGNORED
from spikeformers.errors import ConfigError, DataError
from spikeformers.evaluation.windows import Text, Window, text_of, windows_of
from spikeformers.foreign import read_json
from spikeformers.models.registry import is_masked_model
from spikeformers.progress import Move
from spikeformers.values import fits

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class PerplexityReport:
    """Figures of one evaluation; those that do not apply to the kind of model are None."""

    kind: Literal["causal", "masked"]
    context: int
    stride: int
    tokens: int
    """Tokens scored: all of the text, or the masked ones."""
    bytes: int
    words: int
    nats_per_token: float | None = None
    perplexity: float | None = None
    word_perplexity: float | None = None
    bits_per_byte: float | None = None
    masked_loss: float | None = None
    """Nats per masked token."""
    masked_accuracy: float | None = None
    masked_perplexity: float | None = None
    mask_seed: int | None = None
    mask_probability: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; a figure too large for a float is None."""
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(self).items()
        }


def perplexity(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: Iterable[str] | TokenSplit,
    *,
    context: int | None = None,
    stride: int | None = None,
    max_tokens: int | None = None,
    batch_size: int = 8,
    progress: Move | None = None,
    mask_seed: int = 0,
    mask_probability: float = 0.15,
) -> PerplexityReport:
    """Score every token of the documents once; see ``windows.py`` for context and stride.

    ``context`` defaults to the training length recorded by the run, else to the model's number of
    positions; ``stride`` to ``context // 2``. Masked models ignore stride. Membranes start
    at zero in every window, so the result does not depend on ``batch_size``. ``progress`` receives
    the tokens scored and the total.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, not {batch_size}.")
    text = text_of(tokenizer, documents, max_tokens)
    _check_vocabulary(model, text)
    context = context_of(model) if context is None else context
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest is not None and context > longest:
        raise ConfigError(f"context is {context}; this model takes at most {longest} tokens.")
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            if is_masked_model(model):
                return _masked(
                    model, tokenizer, text, context, batch_size, progress,
                    mask_seed, mask_probability,
                )  # fmt: skip
            stride = max(1, context // 2) if stride is None else stride
            return _causal(model, tokenizer, text, context, stride, batch_size, progress)
    finally:
        model.train(training)


def _check_vocabulary(model: PreTrainedModel, text: Text) -> None:
    size, largest = getattr(model.config, "vocab_size", None), int(text.tokens.max())
    if size is not None and largest >= size:
        raise DataError(
            f"the text holds the token id {largest}, and the model's vocabulary is {size}: it "
            "was made by another tokenizer. Tokenise the text with the model's own."
        )


def context_of(model: PreTrainedModel) -> int:
    """Default length of a window: as trained (``run.json``), else all positions."""
    record = Path(str(getattr(model.config, "_name_or_path", "") or "")) / "run.json"
    longest = getattr(model.config, "max_position_embeddings", None)
    if record.is_file():
        trained = read_json(record, needed={"config": dict})["config"].get("context")
        if fits(trained, int) and trained >= 2:
            return trained if longest is None else min(trained, longest)
    if longest is None:
        raise ConfigError("this model does not state its number of positions; give a context.")
    return int(longest)


def _causal(
    model: Any,
    tokenizer: Any,
    text: Text,
    context: int,
    stride: int,
    batch_size: int,
    progress: Move | None,
) -> PerplexityReport:
    from spikeformers.data.tokenizers import separator_id

    stream = np.concatenate([[separator_id(tokenizer)], text.tokens])
    total, done = 0.0, 0
    windows = list(windows_of(len(stream), context, stride))
    for first in range(0, len(windows), batch_size):
        batch = windows[first : first + batch_size]
        total += _score(model, stream, batch)
        done += sum(window.scored for window in batch)
        if progress is not None:
            progress(done, len(text.tokens))
    return PerplexityReport(
        kind="causal",
        context=context,
        stride=stride,
        tokens=done,
        bytes=text.bytes,
        words=text.words,
        nats_per_token=total / done,
        perplexity=_exp(total / done),
        word_perplexity=_exp(total / text.words) if text.words else None,
        bits_per_byte=total / math.log(2) / text.bytes,
    )


def _score(model: Any, stream: NDArray[Any], windows: list[Window]) -> float:
    """Summed nats of the tokens scored by windows of equal length."""
    ids = np.stack([stream[w.start : w.start + w.length] for w in windows])
    inputs = torch.from_numpy(ids).to(model.device)
    logits = model(input_ids=inputs).logits
    total = 0.0
    for row, window in enumerate(windows):
        nats = F.cross_entropy(
            logits[row, -window.scored - 1 : -1].float(),
            inputs[row, -window.scored :],
            reduction="none",
        )
        total += float(nats.double().sum())
    return total


def _masked(
    model: Any,
    tokenizer: Any,
    text: Text,
    context: int,
    batch_size: int,
    progress: Move | None,
    seed: int,
    probability: float,
) -> PerplexityReport:
    if tokenizer.mask_token_id is None:
        raise ConfigError("a masked model needs a tokenizer with a mask token; this one has none.")
    count = len(text.tokens)
    total, correct, scored, done = 0.0, 0, 0, 0
    starts = np.arange(0, count, context, dtype=np.int64)
    full = starts[starts + context <= count]
    groups = [full[i : i + batch_size] for i in range(0, len(full), batch_size)]
    groups += [starts[len(full) :]] if len(full) < len(starts) else []
    for group in groups:
        length = min(context, count - int(group[0]))
        ids = text.tokens[group[:, None] + np.arange(length)]
        inputs, labels = mask_tokens(
            ids,
            seed=seed,
            epoch=0,
            starts=group,
            mask_token_id=tokenizer.mask_token_id,
            vocab_size=len(tokenizer),
            special_ids=[int(i) for i in tokenizer.all_special_ids],
            probability=probability,
        )
        chosen = torch.from_numpy(labels != IGNORED)
        if bool(chosen.any()):
            logits = model(input_ids=torch.from_numpy(inputs).to(model.device)).logits
            masked = logits[chosen.to(logits.device)].float()
            targets = torch.from_numpy(labels)[chosen].to(masked.device)
            total += float(F.cross_entropy(masked, targets, reduction="none").double().sum())
            correct += int((masked.argmax(-1) == targets).sum())
            scored += len(targets)
        done += ids.size
        if progress is not None:
            progress(done, count)
    loss = total / scored if scored else math.nan
    return PerplexityReport(
        kind="masked",
        context=context,
        stride=context,
        tokens=scored,
        bytes=text.bytes,
        words=text.words,
        masked_loss=loss,
        masked_accuracy=correct / scored if scored else math.nan,
        masked_perplexity=_exp(loss),
        mask_seed=seed,
        mask_probability=probability,
    )


def _exp(x: float) -> float:
    return math.exp(x) if not x > 700 else math.inf
