"""The sampler: every window once an epoch, whatever the world; a function of seed and step."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikeformers.data.sampling import (
    ExampleSampler,
    WindowSampler,
    batch,
    consecutive_starts,
)
from spikeformers.errors import ConfigError, DataError


def windows_of_epoch(sampler: WindowSampler, epoch: int) -> np.ndarray:
    """The starts that belong to one epoch, gathered from the batches that hold them."""
    first = epoch * sampler.num_windows // sampler.batch_size
    last = (epoch + 1) * sampler.num_windows // sampler.batch_size
    steps = range(first, last + 1)
    starts = np.concatenate([sampler.indices(step) for step in steps])
    epochs = np.concatenate([sampler.epochs(step) for step in steps])
    return starts[epochs == epoch]


@given(
    num_tokens=st.integers(2, 700),
    context=st.integers(2, 40),
    batch_size=st.integers(1, 9),
    seed=st.integers(-5, 2**63),
    epoch=st.integers(0, 4),
)
def test_every_window_once_an_epoch(num_tokens, context, batch_size, seed, epoch):
    if num_tokens < context:
        num_tokens += context
    sampler = WindowSampler(num_tokens, context, batch_size, seed)
    starts = np.sort(windows_of_epoch(sampler, epoch))
    assert len(starts) == sampler.num_windows
    assert (np.diff(starts) == context).all()  # side by side: none twice, none left out
    assert starts[0] >= 0
    assert starts[-1] + context <= num_tokens
    assert num_tokens - len(starts) * context < 2 * context


@given(step=st.integers(0, 10_000), world=st.sampled_from([1, 2, 3, 4]))
def test_ranks_share_the_global_batch(step, world):
    sampler = WindowSampler(5_000, 16, 12, seed=3)
    complete = sampler.indices(step)
    ranks = [WindowSampler(5_000, 16, 12, seed=3).indices(step)[r::world] for r in range(world)]
    assert sorted(np.concatenate(ranks)) == sorted(complete)
    assert complete.dtype == np.int64
    assert complete.shape == (12,)


def test_order_of_asking_does_not_matter():
    forwards = WindowSampler(1_000, 10, 7, seed=1)
    batches = [forwards.indices(step) for step in range(60)]
    backwards = WindowSampler(1_000, 10, 7, seed=1)
    for step in reversed(range(60)):
        np.testing.assert_array_equal(backwards.indices(step), batches[step])


def test_stays_the_same_for_ever():
    # Written down once: a resumed run must see these windows on any later version.
    sampler = WindowSampler(1_000, 10, 4, seed=7)
    assert sampler.num_windows == 99
    assert [sampler.indices(step).tolist() for step in (0, 24, 1000)] == [
        [783, 863, 883, 323],
        [193, 53, 143, 781],
        [522, 172, 742, 182],
    ]


def test_epochs_differ_in_order_and_in_grid():
    sampler = WindowSampler(100_000, 64, 1, seed=0)
    first, second = (windows_of_epoch(sampler, epoch) for epoch in (0, 1))
    assert first.tolist() != second.tolist()
    grids = {int(windows_of_epoch(sampler, epoch)[0]) % 64 for epoch in range(8)}
    assert len(grids) > 4


def test_epoch_counts_windows():
    sampler = WindowSampler(num_tokens=49, context=10, batch_size=3, seed=0)
    assert sampler.num_windows == 4
    assert [sampler.epoch(step) for step in range(5)] == [0, 0, 1, 2, 3]
    assert sampler.epochs(1).tolist() == [0, 1, 1]


def test_a_batch_larger_than_the_corpus_repeats_it():
    sampler = WindowSampler(num_tokens=10, context=10, batch_size=5, seed=0)
    assert sampler.indices(3).tolist() == [0] * 5


def test_batch_gathers_the_tokens():
    tokens = np.arange(100, dtype=np.uint16)
    rows = batch(tokens, np.array([3, 90]), 4)
    assert rows.tolist() == [[3, 4, 5, 6], [90, 91, 92, 93]]
    assert rows.dtype == np.int64


def test_consecutive_starts():
    assert consecutive_starts(35, 10).tolist() == [0, 10, 20]
    assert consecutive_starts(35, 10, limit=2).tolist() == [0, 10]


def test_corpus_shorter_than_the_context():
    with pytest.raises(DataError, match=r"shorter than the context: 9 tokens, .* takes 10"):
        WindowSampler(9, 10, 1, seed=0)
    with pytest.raises(DataError, match="shorter than the context"):
        consecutive_starts(9, 10)


def test_windows_outside_the_split():
    with pytest.raises(DataError, match="window of 10 tokens at 95"):
        batch(np.arange(100), np.array([95]), 10)


@pytest.mark.parametrize(("context", "batch_size"), [(1, 4), (8, 0)])
def test_senseless_sizes(context, batch_size):
    with pytest.raises(ConfigError, match=f"got {context} and {batch_size}"):
        WindowSampler(100, context, batch_size, seed=0)


def test_examples_are_visited_once_an_epoch() -> None:
    sampler = ExampleSampler(10, 4, seed=3)
    seen = np.concatenate([sampler.indices(step) for step in range(5)])
    assert sorted(seen[:10].tolist()) == sorted(seen[10:].tolist()) == list(range(10))
    assert seen[:10].tolist() != seen[10:].tolist()
    again = ExampleSampler(10, 4, seed=3)
    assert again.indices(3).tolist() == seen[12:16].tolist()  # of the step alone
    assert ExampleSampler(10, 4, seed=4).indices(0).tolist() != seen[:4].tolist()
    assert len(ExampleSampler(3, 8, seed=0).indices(1)) == 8  # a batch of several epochs
    with pytest.raises(ConfigError, match="needs examples"):
        ExampleSampler(0, 4, seed=0)
