"""How far one causal model agrees with another, token by token.

    agreement       share of positions where both find the same next token likeliest
    KL              sum_v p(v) ln(p(v) / q(v)), p the reference, q the model; nats a token
    cosine          of the two rows of logits, each less its mean (softmax does not see the mean)
    logit cosine    of the rows as they are
    hidden cosine   of what the two heads read; none where their widths differ

Means over all positions of windows that lie side by side; the last, shorter one is its own batch.
Agreement and the last two are the token-wise accuracy and the cosines of NeurTransformer
(https://arxiv.org/abs/2510.00133), which gives no formula.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spikeformers.data import TokenSplit
from spikeformers.errors import ConfigError, DataError
from spikeformers.progress import Move

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class AgreementReport:
    """Means over ``tokens`` positions."""

    tokens: int
    context: int
    agreement: float
    kl: float
    """Nats a token, from the reference to the model."""
    cosine: float
    """Of centred logits."""
    logit_cosine: float
    hidden_cosine: float | None

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
    progress: Move | None = None,
) -> AgreementReport:
    """Compare two causal models of one vocabulary on ``split``, in windows of ``context``.

    ``progress`` gets tokens compared, and in all.
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
    split.check_vocabulary(sizes[0])
    tokens = np.asarray(split.tokens[:max_tokens], dtype=np.int64)
    if not len(tokens):
        raise DataError(f"the split {split.name!r} is empty: there is nothing to compare on.")
    modes = [one.training for one in (model, reference)]
    model.eval(), reference.eval()
    sums, done, hidden = torch.zeros(5, dtype=torch.float64), 0, True
    try:
        for ids in _windows(tokens, context, batch_size):
            (mine, read), (theirs, other) = (_run(one, ids) for one in (model, reference))
            theirs, other = theirs.to(mine.device), other.to(read.device)
            hidden = read.shape == other.shape
            sums += torch.stack([*_of_logits(mine, theirs), _cosines(read, other, hidden)]).cpu()
            done += ids.numel()
            if progress is not None:
                progress(done, len(tokens))
    finally:
        model.train(modes[0]), reference.train(modes[1])
    same, kl, cosine, plain, inner = (sums / done).tolist()
    return AgreementReport(done, context, same, kl, cosine, plain, inner if hidden else None)


def _run(model: Any, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Logits ``[B, T, V]``, and what the head reads, ``[B, T, D]``."""
    seen: list[Tensor] = []
    head = model.get_output_embeddings()
    handle = head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        logits: Tensor = model(input_ids=ids.to(model.device), use_cache=False).logits
    finally:
        handle.remove()
    return logits.float(), seen[-1].reshape(*logits.shape[:2], -1).float()


def _of_logits(mine: Tensor, theirs: Tensor) -> list[Tensor]:
    """Agreement, KL and both cosines of logits, summed over the positions of ``[B, T, V]``."""
    same = (mine.argmax(-1) == theirs.argmax(-1)).double().sum()
    kl = F.kl_div(mine.log_softmax(-1), theirs.log_softmax(-1), reduction="none", log_target=True)
    centred = _cosines(mine - mine.mean(-1, True), theirs - theirs.mean(-1, True))
    return [same, kl.sum(-1).double().sum(), centred, _cosines(mine, theirs)]


def _cosines(one: Tensor, other: Tensor, comparable: bool = True) -> Tensor:
    if not comparable:
        return torch.zeros((), dtype=torch.float64, device=one.device)
    return F.cosine_similarity(one, other, -1).double().sum()


def _windows(tokens: Any, context: int, batch_size: int) -> Any:
    whole = len(tokens) // context * context
    rows = tokens[:whole].reshape(-1, context)
    for first in range(0, len(rows), batch_size):
        yield torch.from_numpy(rows[first : first + batch_size])
    if whole < len(tokens):
        yield torch.from_numpy(tokens[None, whole:])
