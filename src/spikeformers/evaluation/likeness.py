"""How like its original a converted model is, token by token, on the same windows.

    agreement        mean over tokens of [argmax of one = argmax of the other]
    logit cosine     mean over tokens of cos(logits, logits')
    hidden cosine    mean over tokens of cos(h, h'), h what the head reads

The token-wise accuracy and the two cosines of NeurTransformer (https://arxiv.org/abs/2510.00133),
which gives no formula; ``agreement.py`` compares probabilities, and takes the mean off logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from spikeformers.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Likeness:
    """Means over ``tokens`` predictions."""

    tokens: int
    agreement: float
    logit_cosine: float
    hidden_cosine: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def likeness_of(
    model: PreTrainedModel,
    reference: PreTrainedModel,
    windows: Iterable[Tensor],
    progress: Callable[[int], None] | None = None,
) -> Likeness:
    """Compare ``model`` with ``reference`` on batches of ids ``[B, T]``, every position.

    Raises ConfigError for models of different vocabularies and DataError for no tokens.
    """
    if model.config.vocab_size != reference.config.vocab_size:
        raise ConfigError(
            f"vocabularies of {model.config.vocab_size} and {reference.config.vocab_size} tokens "
            "cannot be compared."
        )
    tokens, sums = 0, torch.zeros(3, dtype=torch.float64)
    for ids in windows:
        ours, theirs = _outputs(model, ids), _outputs(reference, ids)
        same = (ours[0].argmax(-1) == theirs[0].argmax(-1)).double().sum()
        cosines = [
            F.cosine_similarity(a.float(), b.float(), dim=-1).double().sum()
            for a, b in zip(ours, theirs, strict=True)
        ]
        sums += torch.stack([same, *cosines]).cpu()
        tokens += ids.numel()
        if progress is not None:
            progress(tokens)
    if tokens == 0:
        raise DataError("there is no token to compare on: give at least one batch of ids.")
    agreement, logits, hidden = (sums / tokens).tolist()
    return Likeness(tokens, agreement, logits, hidden)


def _outputs(model: Any, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, and the head's input."""
    seen: list[Tensor] = []
    head = model.get_output_embeddings()
    handle = head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            logits = model(input_ids=ids.to(model.device), use_cache=False).logits
    finally:
        handle.remove()
        model.train(training)
    hidden = seen[-1]
    return logits, hidden.reshape(*logits.shape[:2], -1) if hidden.dim() == 3 else hidden[0]
