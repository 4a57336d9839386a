"""How far one causal model agrees with another, token by token.

    agreement       share of positions where both predict the same most likely next token
    KL              sum_v p(v) ln(p(v) / q(v)), p the reference, q the model; nats per token
    cosine          of the two rows of logits, each minus its mean (which softmax ignores)
    logit cosine    of the rows without that
    hidden cosine   of the inputs of the two heads; None if their widths differ

All are means over the positions of adjacent windows; the last, shorter one is its own batch.
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
    """Nats per token, from the reference to the model."""
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

    ``progress`` receives the tokens compared and the total.
    Raises ConfigError for models that cannot be compared, DataError for an empty text.
    """
    if batch_size < 1 or context < 1:
        raise ConfigError(f"context and batch_size must be positive: {context}, {batch_size}.")
    for name, compared in (("model", model), ("reference", reference)):
        longest = getattr(compared.config, "max_position_embeddings", None)
        if longest and context > longest:
            raise ConfigError(f"context is {context}; the {name} takes at most {longest} tokens.")
    sizes = [compared.config.vocab_size for compared in (model, reference)]
    if sizes[0] != sizes[1]:
        raise ConfigError(
            f"The model has a vocabulary of {sizes[0]} and the reference one of {sizes[1]}; only "
            "models of one tokenizer can be compared token by token."
        )
    split.check_vocabulary(sizes[0])
    tokens = np.asarray(split.tokens[:max_tokens], dtype=np.int64)
    if not len(tokens):
        raise DataError(f"the split {split.name!r} is empty: there is nothing to compare on.")
    modes = [compared.training for compared in (model, reference)]
    model.eval(), reference.eval()
    sums, done, hidden = torch.zeros(5, dtype=torch.float64), 0, True
    try:
        for ids in _windows(tokens, context, batch_size):
            logits, states = _run(model, ids)
            reference_logits, reference_states = (x.to(logits.device) for x in _run(reference, ids))
            hidden = states.shape == reference_states.shape
            inner = _cosines(states, reference_states, hidden)
            sums += torch.stack([*_of_logits(logits, reference_logits), inner]).cpu()
            done += ids.numel()
            if progress is not None:
                progress(done, len(tokens))
    finally:
        model.train(modes[0]), reference.train(modes[1])
    same, kl, cosine, logit_cosine, hidden_cosine = (sums / done).tolist()
    return AgreementReport(
        done, context, same, kl, cosine, logit_cosine, hidden_cosine if hidden else None
    )


def _run(model: Any, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Logits ``[B, T, V]``, and the input of the head ``[B, T, D]``."""
    head_inputs: list[Tensor] = []
    head = model.get_output_embeddings()
    handle = head.register_forward_pre_hook(lambda _, args: head_inputs.append(args[0]))
    try:
        logits: Tensor = model(input_ids=ids.to(model.device), use_cache=False).logits
    finally:
        handle.remove()
    return logits.float(), head_inputs[-1].reshape(*logits.shape[:2], -1).float()


def _of_logits(logits: Tensor, reference: Tensor) -> list[Tensor]:
    """Agreement, KL and both cosines of logits, summed over the positions of ``[B, T, V]``."""
    same = (logits.argmax(-1) == reference.argmax(-1)).double().sum()
    log_q, log_p = logits.log_softmax(-1), reference.log_softmax(-1)
    kl = F.kl_div(log_q, log_p, reduction="none", log_target=True)
    centred = _cosines(logits - logits.mean(-1, True), reference - reference.mean(-1, True))
    return [same, kl.sum(-1).double().sum(), centred, _cosines(logits, reference)]


def _cosines(x: Tensor, y: Tensor, comparable: bool = True) -> Tensor:
    if not comparable:
        return torch.zeros((), dtype=torch.float64, device=x.device)
    return F.cosine_similarity(x, y, -1).double().sum()


def _windows(tokens: Any, context: int, batch_size: int) -> Any:
    end = len(tokens) // context * context  # of the full windows
    rows = tokens[:end].reshape(-1, context)
    for first in range(0, len(rows), batch_size):
        yield torch.from_numpy(rows[first : first + batch_size])
    if end < len(tokens):
        yield torch.from_numpy(tokens[None, end:])
