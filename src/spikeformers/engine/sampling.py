"""The choice of the next token, in NumPy.

    p = softmax(logits / temperature), over the top_k likeliest, then over the top_p of what is left

The same tokens can be drawn as by Transformers' ``generate``, with the same probabilities: both
keep all tokens that tie with the k-th, and the fewest tokens whose probabilities reach top_p. The
draws are NumPy's (PCG64), so a seed repeats them here, and does not give the tokens that PyTorch
draws for it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from spikeformers.errors import UsageError
from spikeformers.values import LARGEST_SEED

LIKELIEST = 1024  # tokens that are sorted first: they nearly always hold top_p


def make_sampler(
    temperature: float, top_k: int, top_p: float, seed: int
) -> Callable[[NDArray[np.float32]], int]:
    """A function from logits ``[V]`` to a token; at temperature 0 the likeliest, lowest id on ties.

    ``top_k`` 0 and ``top_p`` 1 keep all tokens. Raises UsageError for a seed, a temperature, a
    top_k or a top_p that there is not.
    """
    if not 0 <= seed <= LARGEST_SEED:
        raise UsageError(f"seed is {seed}; it must be between 0 and {LARGEST_SEED}.")
    if not 0 <= temperature < float("inf"):
        raise UsageError(f"temperature is {temperature}; it must be a finite number from 0.")
    if top_k < 0:
        raise UsageError(f"top_k is {top_k}; it must be 1 or more, or 0 for all tokens.")
    if not 0 < top_p <= 1:
        raise UsageError(f"top_p is {top_p}; it must be above 0, and at most 1.")
    if temperature == 0:
        return lambda logits: int(logits.argmax())
    generator = np.random.default_rng(seed)

    def draw(logits: NDArray[np.float32]) -> int:
        tokens, chances = candidates(logits, temperature, top_k, top_p)
        running = np.cumsum(chances)
        place = int(np.searchsorted(running, generator.random() * running[-1], side="right"))
        return int(tokens[min(place, len(tokens) - 1)])

    return draw


def candidates(
    logits: NDArray[np.float32], temperature: float, top_k: int = 0, top_p: float = 1.0
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Ids ``[n]`` of the tokens that may be drawn from logits ``[V]``, and their probabilities.

    The probabilities are relative: they do not sum to 1 where top_p left tokens out.
    """
    scores = logits.astype(np.float64) / temperature
    tokens = np.arange(len(scores))
    if 0 < top_k < len(scores):
        least = np.partition(scores, -top_k)[-top_k]
        tokens = np.flatnonzero(scores >= least)
        scores = scores[tokens]
    chances = np.exp(scores - scores.max())
    chances /= chances.sum()
    if top_p < 1:
        nucleus = _nucleus(chances, top_p)
        tokens, chances = tokens[nucleus], chances[nucleus]
    return tokens, chances


def _nucleus(chances: NDArray[np.float64], top_p: float) -> NDArray[np.intp]:
    """Places of the fewest likeliest that reach ``top_p`` together: at least one, ascending."""
    places = np.arange(len(chances))
    if len(chances) > LIKELIEST:
        likeliest = np.argpartition(-chances, LIKELIEST)[:LIKELIEST]
        if chances[likeliest].sum() >= top_p:
            places = np.sort(likeliest)
    order = places[np.argsort(-chances[places], kind="stable")]
    before = np.cumsum(chances[order]) - chances[order]
    return np.sort(order[before < top_p])
