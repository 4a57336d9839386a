"""Every rank and every part gets its share of one global batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from spikeformers.data import WindowSampler, batch
from spikeformers.data.masking import IGNORED
from spikeformers.errors import ConfigError, DataError
from spikeformers.training.batches import (
    Objective,
    TrainBatches,
    make_objective,
    validation_batches,
)
from spikeformers.training.distributed import World

CPU = torch.device("cpu")


def world(rank: int = 0, size: int = 1) -> World:
    return World(rank, size, CPU, "single" if size == 1 else "ddp")


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
@pytest.mark.parametrize(("size", "accumulation"), [(2, 1), (1, 2), (2, 2), (4, 1)])
def test_the_shares_make_up_the_batch(
    kind: str, size: int, accumulation: int, fresh: Any, config: Any
) -> None:
    model, store, tokenizer = fresh(kind)
    objective = make_objective(model, tokenizer, config())
    split = store.split("train")
    (whole,) = TrainBatches(split, objective, config(), world()).of(3)
    parts = [
        part
        for rank in range(size)
        for part in TrainBatches(
            split, objective, config(gradient_accumulation=accumulation), world(rank, size)
        ).of(3)
    ]
    assert torch.equal(torch.cat([p.input_ids for p in parts]), whole.input_ids)
    assert torch.equal(torch.cat([p.labels for p in parts]), whole.labels)
    assert sum(p.targets for p in parts) == whole.targets


def test_a_causal_batch_is_the_samplers_windows(fresh: Any, config: Any) -> None:
    model, store, tokenizer = fresh("gpt2")
    split = store.split("train")
    objective = make_objective(model, tokenizer, config())
    (part,) = TrainBatches(split, objective, config(), world()).of(5)
    starts = WindowSampler(split.num_tokens, 16, 4, seed=0).indices(5)
    assert part.input_ids.tolist() == batch(split, starts, 16).tolist()
    assert part.labels.tolist() == part.input_ids.tolist()
    assert part.targets == 4 * 15  # the model shifts: nothing follows the last token


def test_masks_change_with_the_epoch_and_stay_in_validation(fresh: Any, config: Any) -> None:
    model, store, tokenizer = fresh("bert")
    objective = make_objective(model, tokenizer, config())
    ids, starts = batch(store.split("train"), np.arange(2) * 16, 16), np.arange(2) * 16
    first, second = (objective.micro_batch(ids, starts, epoch) for epoch in (0, 1))
    assert not torch.equal(first.labels, second.labels)
    assert first.targets == int((first.labels != IGNORED).sum()) > 0
    held_out = store.split("validation")
    once, again = (
        list(validation_batches(held_out, objective, config(), world())) for _ in range(2)
    )
    assert all(torch.equal(a.labels, b.labels) for a, b in zip(once, again, strict=True))


def test_a_batch_with_nothing_to_predict_has_one_label_of_weight_zero() -> None:
    objective = Objective(0, 10, mask_token_id=3, special_ids=(1, 2, 3))
    part = objective.micro_batch(np.full((1, 4), 2), np.zeros(1, dtype=np.int64), 0)
    assert part.targets == 0
    assert part.labels.tolist() == [[2, IGNORED, IGNORED, IGNORED]]


def test_validation_windows_span_the_split_and_are_shared_out(fresh: Any, config: Any) -> None:
    model, store, tokenizer = fresh("gpt2")
    objective, split = make_objective(model, tokenizer, config()), store.split("validation")
    chosen = config(eval_batches=2, batch_size=3)
    complete = torch.cat(
        [p.input_ids for p in validation_batches(split, objective, chosen, world())]
    )
    assert complete.shape == (6, 16)
    assert complete[0].tolist() == split.tokens[:16].tolist()
    assert complete[-1].tolist() == split.tokens[-16:].tolist()
    shares = [
        list(validation_batches(split, objective, chosen, world(rank, 4))) for rank in range(4)
    ]
    assert [len(share) for share in shares] == [2] * 4  # the ranks stay in step
    assert [[p.targets // 15 for p in share] for share in shares] == [[1, 1]] * 3 + [[0, 0]]


def test_all_of_validation_is_used_on_request(fresh: Any, config: Any) -> None:
    model, store, tokenizer = fresh("gpt2")
    objective, split = make_objective(model, tokenizer, config()), store.split("validation")
    seen = validation_batches(split, objective, config(eval_batches=0), world())
    assert sum(len(p.input_ids) for p in seen) == split.num_tokens // 16


def test_models_and_tokenizers_that_do_not_fit_are_refused(
    fresh: Any, config: Any, causal: Any
) -> None:
    model, store, tokenizer = fresh("gpt2")
    with pytest.raises(ConfigError, match=r"context is 33; this model takes at most 32"):
        make_objective(model, tokenizer, config(context=33))
    with pytest.raises(ConfigError, match="needs a tokenizer with a mask token"):
        make_objective(fresh("bert")[0], causal.tokenizer, config())
    model.config.vocab_size = 5
    with pytest.raises(ConfigError, match=r"tokens and the model a vocabulary of 5"):
        make_objective(model, tokenizer, config())
    split = store.split("train")
    long = config(context=split.num_tokens + 1)
    with pytest.raises(DataError, match=f"shorter than the context: {split.num_tokens} tokens"):
        TrainBatches(split, Objective(0, 300), long, world())
