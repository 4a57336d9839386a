"""Log-probabilities of tokens under the model itself: before temperature, bias and penalties."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TokenLogprob:
    """A token's log-probability (nats), and those of the likeliest tokens, likeliest first."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


def logprob_of(logits: NDArray[np.float32], token: int, top: int) -> TokenLogprob:
    """From logits ``[V]``; of equally likely tokens those of lower id come first."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max()
    shifted -= np.log(np.exp(shifted).sum())
    best: list[tuple[int, float]] = []
    if top > 0:
        count = min(top, len(shifted))
        least = np.partition(shifted, -count)[-count]
        likely = np.flatnonzero(shifted >= least)
        order = likely[np.argsort(-shifted[likely], kind="stable")][:count]
        best = [(int(each), float(shifted[each])) for each in order]
    return TokenLogprob(token, float(shifted[token]), tuple(best))
