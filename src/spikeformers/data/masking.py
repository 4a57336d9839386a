"""Masked-language-model inputs: 15 % of the tokens to predict, 80/10/10 mask, random, unchanged.

Devlin et al. 2019, https://arxiv.org/abs/1810.04805. Masks are drawn again in every epoch, as in
RoBERTa (https://arxiv.org/abs/1907.11692), and depend only on (seed, epoch, start of the window).
Differs: if any token of a window may be masked, at least one is, so that no loss is 0/0.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from spikeformers.data.sampling import MASK, philox
from spikeformers.errors import ConfigError

IGNORED = -100  # the label that cross entropy leaves out


def mask_tokens(
    ids: NDArray[np.int64],
    *,
    seed: int,
    epoch: int | NDArray[np.int64],
    starts: NDArray[np.int64],
    mask_token_id: int,
    vocab_size: int,
    special_ids: Iterable[int],
    probability: float = 0.15,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """``(inputs, labels)``, both int64 ``[b, t]``; ``epoch`` is one number or one per window.

    Special tokens are never masked and never inserted as the random token.
    """
    if not 0 < probability <= 1:
        raise ConfigError(f"the masking probability must lie in (0, 1], got {probability}.")
    specials = np.unique(np.fromiter(special_ids, dtype=np.int64))
    ordinary = np.setdiff1d(np.arange(vocab_size, dtype=np.int64), specials)
    if len(ordinary) == 0:
        raise ConfigError(f"all {vocab_size} tokens of the vocabulary are special; none to draw.")
    rows, columns = ids.shape
    epochs = np.broadcast_to(np.asarray(epoch, dtype=np.int64), (rows,))
    raw = np.empty((rows, 3, columns), dtype=np.uint64)
    for row in range(rows):
        number = (int(epochs[row]) << 40) ^ int(starts[row])  # starts stay below 2**40 tokens
        raw[row] = philox(seed, number, MASK).random_raw(3 * columns).reshape(3, columns)
    uniform = (raw[:, :2] >> np.uint64(11)) * 2.0**-53  # [0, 1)

    chance = np.where(np.isin(ids, specials), 2.0, uniform[:, 0])  # 2: never chosen
    chosen = chance < probability
    least = chance.argmin(axis=1)
    forced = chance[np.arange(rows), least] < 1
    chosen[np.arange(rows)[forced], least[forced]] = True

    labels = np.where(chosen, ids, IGNORED)
    inputs = np.where(chosen & (uniform[:, 1] < 0.8), mask_token_id, ids)
    drawn = ordinary[(raw[:, 2] % np.uint64(len(ordinary))).astype(np.int64)]
    swapped = chosen & (uniform[:, 1] >= 0.8) & (uniform[:, 1] < 0.9)
    return np.where(swapped, drawn, inputs), labels
