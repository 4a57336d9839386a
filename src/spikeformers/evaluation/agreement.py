"""How far one causal model agrees with another, token by token.

    agreement   share of positions where both find the same next token likeliest
    KL          sum_v p(v) ln(p(v) / q(v)), p the reference, q the model; nats a token
    cosine      of the two rows of logits, each less its mean (softmax does not see the mean)

Means over all positions of windows that lie side by side; the last, shorter one is its own batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spikeformers.data import TokenSplit
from spikeformers.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Progress = Callable[[int, int], None]  # tokens compared, tokens in all


@dataclass(frozen=True)
class AgreementReport:
    """Means over ``tokens`` positions."""

    tokens: int
    context: int
    agreement: float
    kl: float
    """Nats a token, from the reference to the model."""
    cosine: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@torch.no_grad()
def agreement(
    model: PreTrainedModel,
    reference: PreTrainedModel,
    split: TokenSplit,
    *,
    context: int,
    max_tokens: int | None = None,
    batch_size: int = 8,
    progress: Progress | None = None,
) -> AgreementReport:
    """Compare two causal models of one vocabulary on ``split``, in windows of ``context``.

    Raises ConfigError for models that cannot be compared, DataError for an empty text.
    """
    if batch_size < 1 or context < 1:
        raise ConfigError(f"context and batch_size must be positive: {context}, {batch_size}.")
    for name, one in (("model", model), ("reference", reference)):
        longest = getattr(one.config, "max_position_embeddings", None)
        if longest and context > longest:
            raise ConfigError(f"context is {context}; the {name} takes at most {longest} tokens.")
    sizes = [one.config.vocab_size for one in (model, reference)]
    if sizes[0] != sizes[1]:
        raise ConfigError(
            f"The model has a vocabulary of {sizes[0]} and the reference one of {sizes[1]}; only "
            "models of one tokenizer can be compared token by token."
        )
    tokens = np.asarray(split.tokens[:max_tokens], dtype=np.int64)
    if not len(tokens):
        raise DataError(f"the split {split.name!r} is empty: there is nothing to compare on.")
    modes = [one.training for one in (model, reference)]
    model.eval(), reference.eval()
    sums, done = torch.zeros(3, dtype=torch.float64), 0
    try:
        for ids in _windows(tokens, context, batch_size):
            mine, theirs = (one(input_ids=ids.to(one.device)).logits for one in (model, reference))
            sums += _sums(mine, theirs.to(mine.device))
            done += ids.numel()
            if progress is not None:
                progress(done, len(tokens))
    finally:
        model.train(modes[0]), reference.train(modes[1])
    return AgreementReport(done, context, *(sums / done).tolist())


def _sums(mine: Tensor, theirs: Tensor) -> Tensor:
    """Agreement, KL and cosine, summed over the positions of ``[B, T, V]``."""
    mine, theirs = mine.float(), theirs.float()
    same = (mine.argmax(-1) == theirs.argmax(-1)).double().sum()
    kl = F.kl_div(mine.log_softmax(-1), theirs.log_softmax(-1), reduction="none", log_target=True)
    cosine = F.cosine_similarity(mine - mine.mean(-1, True), theirs - theirs.mean(-1, True), -1)
    return torch.stack([same, kl.sum(-1).double().sum(), cosine.double().sum()]).cpu()


def _windows(tokens: Any, context: int, batch_size: int) -> Any:
    whole = len(tokens) // context * context
    rows = tokens[:whole].reshape(-1, context)
    for first in range(0, len(rows), batch_size):
        yield torch.from_numpy(rows[first : first + batch_size])
    if whole < len(tokens):
        yield torch.from_numpy(tokens[None, whole:])
