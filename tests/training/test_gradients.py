"""A step's randomness is its own, and its gradient that of the mean over all targets."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from spikeformers.training.batches import TrainBatches, make_objective
from spikeformers.training.density import DensityMeter
from spikeformers.training.distributed import World
from spikeformers.training.gradients import GradientStep
from spikeformers.training.precision import choose_precision
from spikeformers.training.task import Task

ALONE = World(0, 1, torch.device("cpu"), "single")
FP32 = choose_precision("fp32", torch.device("cpu"))


def step_of(parts: tuple[Any, Any, Any], config: Any) -> GradientStep:
    model, store, tokenizer = parts
    objective = make_objective(model, tokenizer, config)
    batches = TrainBatches(store.split("train"), objective, config, ALONE)
    model.train()
    return GradientStep(model, Task(model), batches, config, ALONE, FP32, DensityMeter())


@pytest.mark.parametrize("kind", ["gpt2", "bert", "wd", "we"])
def test_dropout_depends_on_seed_and_step_alone(kind: str, fresh: Any, config: Any) -> None:
    parts = fresh(kind, dropout=0.5)
    gradients = step_of(parts, config())
    first = gradients(4, measure=False)
    torch.rand(100)  # whatever happened before
    parts[0].zero_grad()
    assert gradients(4, measure=True) == first  # measuring changes nothing either
    parts[0].zero_grad()
    assert step_of(parts, config(seed=1))(4, measure=False)["loss"] != first["loss"]
    parts[0].zero_grad()
    assert gradients(5, measure=False)["loss"] != first["loss"]


def test_unequal_parts_of_a_masked_batch_count_by_their_targets(fresh: Any, config: Any) -> None:
    parts = fresh("bert", dropout=0.0)
    complete = step_of(parts, config())
    (batch,) = complete.batches.of(0)
    split = step_of(parts, config(gradient_accumulation=4))
    targets = [part.targets for part in split.batches.of(0)]
    assert len(set(targets)) > 1
    assert sum(targets) == batch.targets
    expected = parts[0](input_ids=batch.input_ids, labels=batch.labels).loss
    expected.backward()
    gradients = [p.grad.clone() for p in parts[0].parameters()]
    parts[0].zero_grad()
    assert split(0, measure=False)["loss"] == pytest.approx(expected.item(), rel=1e-6)
    for parameter, gradient in zip(parts[0].parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-6)
