"""A model that knows nothing has the loss of the uniform distribution."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from spikeformers.training.batches import make_objective
from spikeformers.training.distributed import World
from spikeformers.training.precision import choose_precision
from spikeformers.training.validation import lm_loss, validate

ALONE = World(0, 1, torch.device("cpu"), "single")
FP32 = choose_precision("fp32", torch.device("cpu"))


@pytest.mark.parametrize("kind", ["gpt2", "bert", "wd", "we"])
def test_uniform_logits(kind: str, fresh: Any, config: Any) -> None:
    model, store, tokenizer = fresh(kind)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    split = store.split("validation")
    objective = make_objective(model, tokenizer, config())
    model.train()
    metrics = validate(model, split, objective, config(), ALONE, FP32)
    vocabulary = model.config.vocab_size
    assert model.training
    assert metrics["loss"] == pytest.approx(math.log(vocabulary), rel=1e-6)
    if kind in ("bert", "we"):  # a masked loss says nothing about bits of the text
        assert set(metrics) == {"loss", "masked_perplexity"}
        assert metrics["masked_perplexity"] == pytest.approx(vocabulary, rel=1e-5)
        return
    assert metrics["perplexity"] == pytest.approx(vocabulary, rel=1e-5)
    assert metrics["bits_per_byte"] == pytest.approx(
        math.log2(vocabulary) * split.num_tokens / split.num_bytes, rel=1e-6
    )


def test_it_is_the_mean_over_windows_without_dropout(fresh: Any, config: Any) -> None:
    model, store, tokenizer = fresh("gpt2")
    objective = make_objective(model, tokenizer, config())
    chosen = config(eval_batches=0, batch_size=3)
    metrics = validate(model, store.split("validation"), objective, chosen, ALONE, FP32)
    one_by_one = config(eval_batches=0, batch_size=1)
    again = validate(model, store.split("validation"), objective, one_by_one, ALONE, FP32)
    assert metrics["loss"] == pytest.approx(again["loss"], rel=1e-6)


def test_a_penalty_is_left_out(fresh: Any) -> None:
    model, store, _ = fresh("wd", firing_rate_weight=5.0)
    ids = torch.from_numpy(store.split("train").tokens[:16].astype("int64"))[None]
    output = model(input_ids=ids, labels=ids)
    assert lm_loss(output) is output.lm_loss
    assert output.loss.item() > output.lm_loss.item() + 0.1
