"""The choice of the next token, in NumPy.

    p = softmax(logits / temperature), over the top_k likeliest, then over the top_p of the rest,
    then over the tokens that are at least min_p times as likely as the likeliest

The same tokens can be drawn as by Transformers' ``generate``, with the same probabilities: both
keep all tokens that tie with the k-th, and the fewest tokens whose probabilities reach top_p. The
draws are NumPy's (PCG64), so a seed repeats them here, and does not give the tokens that PyTorch
draws for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from spikeformers.errors import UsageError
from spikeformers.values import LARGEST_SEED

LIKELIEST = 1024  # tokens that are sorted first: they nearly always hold top_p


def make_sampler(
    temperature: float, top_k: int, top_p: float, seed: int, min_p: float = 0.0
) -> Callable[[NDArray[np.float32]], int]:
    """A function from logits ``[V]`` to a token; at temperature 0 the likeliest, lowest id on ties.

    ``top_k`` 0, ``top_p`` 1 and ``min_p`` 0 keep all tokens. Raises UsageError for a seed, a
    temperature, a top_k, a top_p or a min_p outside of its range.
    """
    if not 0 <= seed <= LARGEST_SEED:
        raise UsageError(f"seed is {seed}; it must be between 0 and {LARGEST_SEED}.")
    if not 0 <= temperature < float("inf"):
        raise UsageError(f"temperature is {temperature}; it must be a finite number from 0.")
    if top_k < 0:
        raise UsageError(f"top_k is {top_k}; it must be 1 or more, or 0 for all tokens.")
    if not 0 < top_p <= 1:
        raise UsageError(f"top_p is {top_p}; it must be above 0, and at most 1.")
    if not 0 <= min_p <= 1:
        raise UsageError(f"min_p is {min_p}; it must be from 0 to 1.")
    if temperature == 0:
        return lambda logits: int(logits.argmax())
    generator = np.random.default_rng(seed)

    def draw(logits: NDArray[np.float32]) -> int:
        tokens, chances = candidates(logits, temperature, top_k, top_p, min_p)
        running = np.cumsum(chances)
        place = int(np.searchsorted(running, generator.random() * running[-1], side="right"))
        return int(tokens[min(place, len(tokens) - 1)])

    return draw


def candidates(
    logits: NDArray[np.float32],
    temperature: float,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Ids ``[n]`` of the tokens that may be drawn from logits ``[V]``, and their probabilities.

    The probabilities are relative: they do not sum to 1 where top_p or min_p left tokens out.
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
    if min_p > 0:
        likely = chances >= min_p * chances.max()
        tokens, chances = tokens[likely], chances[likely]
    return tokens, chances


def adjusted(
    logits: NDArray[np.float32],
    bias: Mapping[int, float],
    counts: Mapping[int, int],
    presence_penalty: float = 0.0,
    frequency_penalty: float = 0.0,
) -> NDArray[np.float32]:
    """Logits ``[V]`` as OpenAI's interface changes them before a token is drawn.

        logits[j] + bias[j] - counts[j] * frequency_penalty - (counts[j] > 0) * presence_penalty

    ``counts`` are those of the tokens that were generated so far. The logits themselves stay as
    they are; without a bias or a penalty they are returned.
    """
    penalised = counts if presence_penalty or frequency_penalty else {}
    if not bias and not penalised:
        return logits
    changed = logits.copy()
    for token, added in bias.items():
        changed[token] += added
    for token, count in penalised.items():
        changed[token] -= count * frequency_penalty + presence_penalty
    return changed


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
