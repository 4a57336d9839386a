"""Masking: 15 % chosen, 80/10/10, the same for the same seed, epoch and window."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikeformers.data.masking import IGNORED, mask_tokens
from spikeformers.errors import ConfigError

VOCAB, MASK_ID, SPECIALS = 1000, 4, (0, 1, 2, 3, 4)


def masked(ids, seed=0, epoch=0, starts=None, **kwargs):
    starts = np.arange(len(ids), dtype=np.int64) * ids.shape[1] if starts is None else starts
    return mask_tokens(
        ids,
        seed=seed,
        epoch=epoch,
        starts=starts,
        mask_token_id=MASK_ID,
        vocab_size=VOCAB,
        special_ids=SPECIALS,
        **kwargs,
    )


@pytest.fixture(scope="module")
def many() -> np.ndarray:
    return np.random.default_rng(0).integers(5, VOCAB, size=(400, 500), dtype=np.int64)


def test_proportions(many):
    inputs, labels = masked(many)
    chosen = labels != IGNORED
    # 200,000 tokens: three standard deviations of 15 % are 0.24 %, of the parts at most 0.7 %.
    assert chosen.mean() == pytest.approx(0.15, abs=0.003)
    assert (inputs[chosen] == MASK_ID).mean() == pytest.approx(0.8, abs=0.008)
    kept = inputs[chosen] == many[chosen]
    assert kept.mean() == pytest.approx(0.1, abs=0.006)
    drawn = inputs[chosen & (inputs != MASK_ID) & (inputs != many)]
    assert drawn.min() >= 5
    assert drawn.max() < VOCAB
    assert len(np.unique(drawn)) > 900


def test_labels_are_the_tokens_and_the_rest_is_untouched(many):
    inputs, labels = masked(many)
    chosen = labels != IGNORED
    np.testing.assert_array_equal(labels[chosen], many[chosen])
    np.testing.assert_array_equal(inputs[~chosen], many[~chosen])


@given(seed=st.integers(0, 2**40), epoch=st.integers(0, 100), row=st.integers(0, 9))
def test_a_window_is_masked_alike_in_any_batch(seed, epoch, row):
    ids = np.arange(200, dtype=np.int64).reshape(10, 20) + 5
    starts = np.arange(10, dtype=np.int64) * 20
    together = masked(ids, seed, epoch, starts)
    alone = masked(ids[row : row + 1], seed, epoch, starts[row : row + 1])
    for whole, single in zip(together, alone, strict=True):
        np.testing.assert_array_equal(whole[row], single[0])


def test_epochs_seeds_and_windows_differ(many):
    ids = many[:2]
    base = masked(ids)[1]
    assert (masked(ids, epoch=1)[1] != base).any()
    assert (masked(ids, seed=1)[1] != base).any()
    same_text = np.repeat(ids[:1], 2, axis=0)
    rows = masked(same_text)[1]
    assert (rows[0] != rows[1]).any()


def test_one_epoch_a_window(many):
    ids = many[:2]
    both = masked(ids, epoch=np.array([0, 1]))[1]
    np.testing.assert_array_equal(both[0], masked(ids, epoch=0)[1][0])
    np.testing.assert_array_equal(both[1], masked(ids, epoch=1)[1][1])


def test_special_tokens_are_never_chosen():
    ids = np.full((50, 8), 2, dtype=np.int64)
    ids[:, 5] = 77
    inputs, labels = masked(ids)
    assert (labels[:, 5] == 77).all()  # the only candidate: at least one a window is chosen
    assert (np.delete(labels, 5, axis=1) == IGNORED).all()
    assert (np.delete(inputs, 5, axis=1) == 2).all()
    assert (masked(np.full((3, 4), 1, dtype=np.int64))[1] == IGNORED).all()


@pytest.mark.parametrize("probability", [0.0, 1.5])
def test_senseless_probability(many, probability):
    with pytest.raises(ConfigError, match=f"got {probability}"):
        masked(many[:1], probability=probability)
