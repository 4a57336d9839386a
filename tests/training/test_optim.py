"""Schedule, weight decay, gradient norm and clipping, against numbers worked by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from spikeformers.errors import ConfigError
from spikeformers.training import TrainConfig
from spikeformers.training.distributed import World, blocks
from spikeformers.training.optim import (
    MuonAndAdamW,
    clip,
    decays,
    gradient_norm,
    learning_rate,
    make_optimizer,
)

ALONE = World(0, 1, torch.device("cpu"), "single")


def rates(**changes: Any) -> list[float]:
    values = {"steps": 7, "warmup_ratio": 2 / 7, "learning_rate": 1.0} | changes
    config = TrainConfig.from_dict(values)
    return [learning_rate(step, config) for step in range(7)]


def test_linear_schedule() -> None:
    assert rates(schedule="linear") == pytest.approx([0.5, 1, 1, 0.775, 0.55, 0.325, 0.1])


def test_cosine_schedule() -> None:
    bend = 0.9 * (1 + math.cos(math.pi / 4)) / 2
    expected = [0.5, 1, 1, 0.1 + bend, 0.55, 1 - bend, 0.1]
    assert rates(schedule="cosine") == pytest.approx(expected)


def test_constant_schedule_and_no_warm_up() -> None:
    assert rates(schedule="constant") == [0.5, 1, 1, 1, 1, 1, 1]
    assert rates(schedule="constant", warmup_ratio=0) == [1] * 7


@pytest.mark.parametrize(("schedule", "last"), [("linear", 0.1), ("cosine", 0.1), ("constant", 1)])
def test_steps_after_the_schedule_keep_its_last_rate(schedule: str, last: float) -> None:
    config = TrainConfig(
        steps=10, schedule_steps=7, warmup_ratio=2 / 7, learning_rate=1.0, schedule=schedule
    )
    longer = [learning_rate(step, config) for step in range(10)]
    assert longer[:7] == rates(schedule=schedule)
    assert longer[7:] == pytest.approx([last] * 3)


def test_a_run_that_stops_within_its_schedule_has_the_rates_of_the_full_schedule() -> None:
    config = TrainConfig(steps=4, schedule_steps=7, warmup_ratio=2 / 7, learning_rate=1.0)
    assert [learning_rate(step, config) for step in range(4)] == rates(schedule="cosine")[:4]


def test_a_run_of_one_step_uses_the_peak_rate() -> None:
    assert learning_rate(0, TrainConfig(steps=1, learning_rate=2.0)) == 2.0


@pytest.mark.parametrize("kind", ["gpt2", "bert", "wd", "we"])
def test_only_matrices_decay(kind: str, fresh: Any) -> None:
    model = fresh(kind)[0]
    names = {name: decays(name, p) for name, p in model.named_parameters()}
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 or "norm" in name.lower() or name.endswith("bias"):
            assert not names[name], name
    assert sum(names.values()) >= 8  # projections of two blocks
    groups = make_optimizer(model, TrainConfig(weight_decay=0.3)).param_groups
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    assert [len(group["params"]) for group in groups] == [
        sum(names.values()),
        len(names) - sum(names.values()),
    ]


def test_thresholds_never_decay_whatever_their_shape() -> None:
    assert not decays("layers.0.fire.threshold", torch.zeros(4, 4))
    assert not decays("layers.0.scale", torch.zeros(1, 1, 8))
    assert decays("layers.0.weight", torch.zeros(4, 4))


def one_layer(gradient: list[float]) -> nn.Linear:
    layer = nn.Linear(len(gradient), 1, bias=False)
    layer.weight.grad = torch.tensor([gradient])
    return layer


def test_the_gradient_norm_is_clipped_only_from_above() -> None:
    layer = one_layer([3.0, 4.0])
    assert gradient_norm(layer, ALONE) == 5.0
    clip(layer, 5.0, 10.0)
    assert layer.weight.grad.tolist() == [[3.0, 4.0]]
    clip(layer, 5.0, 1.0)
    assert layer.weight.grad.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)]]


def test_the_gradient_norm_does_not_overflow() -> None:
    assert gradient_norm(one_layer([3e30, 4e30]), ALONE) == pytest.approx(5e30)
    assert math.isnan(gradient_norm(one_layer([1.0, math.nan]), ALONE))
    assert gradient_norm(one_layer([1.0, math.inf]), ALONE) == math.inf


# --- Muon -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gpt2", "bert", "wd", "we"])
def test_muon_takes_the_matrices_of_the_blocks_and_nothing_else(kind: str, fresh: Any) -> None:
    model = fresh(kind)[0]
    optimizer = make_optimizer(model, TrainConfig(optimizer="muon", weight_decay=0.3))
    assert isinstance(optimizer, MuonAndAdamW)
    inside = [p for block in blocks(model) for p in block.parameters() if p.ndim == 2]
    assert optimizer.matrices == frozenset(inside)
    assert len(inside) >= 8
    listed = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(listed) == len(set(listed)) == sum(1 for _ in model.parameters())
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0, 0.3]


def test_a_step_is_that_of_torch_muon_and_of_adamw(fresh: Any) -> None:
    config = TrainConfig(optimizer="muon", learning_rate=0.02, muon_momentum=0.9)
    ours, theirs = fresh("wd")[0], fresh("wd")[0]
    optimizer = make_optimizer(ours, config)
    inside = {p for block in blocks(theirs) for p in block.parameters() if p.ndim == 2}
    muon = torch.optim.Muon(
        inside, lr=0.02, weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw"
    )
    rest = {True: [], False: []}
    for name, p in theirs.named_parameters():
        if p not in inside:
            rest[decays(name, p)].append(p)
    adamw = torch.optim.AdamW(
        [{"params": rest[True], "weight_decay": 0.1}, {"params": rest[False], "weight_decay": 0.0}],
        lr=0.02, betas=(0.9, 0.95), eps=1e-8, fused=True,
    )  # fmt: skip
    for step in range(2):
        for model, parts in ((ours, [optimizer]), (theirs, [muon, adamw])):
            torch.manual_seed(step)
            for parameter in model.parameters():
                parameter.grad = torch.randn_like(parameter)
            for part in parts:
                part.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_muon_orthogonalises_the_step_of_a_matrix() -> None:
    """From W = 0 without decay the first step is -lr * 0.2 sqrt(max(A, B)) * U V^T, roughly."""
    block = nn.Linear(4, 4, bias=False)
    nn.init.zeros_(block.weight)
    config = TrainConfig(optimizer="muon", learning_rate=0.5, weight_decay=0.0)
    optimizer = MuonAndAdamW(
        [block.weight], torch.optim.AdamW([nn.Parameter(torch.ones(1))]), config
    )
    block.weight.grad = torch.diag(torch.tensor([4.0, 2.0, 1.0, -1.0]))
    optimizer.step()
    singular = torch.linalg.svdvals(block.weight.detach())
    assert ((singular > 0.5 * 0.2 * 2 * 0.6) & (singular < 0.5 * 0.2 * 2 * 1.3)).all()
    assert torch.equal(block.weight.sign().diag(), torch.tensor([-1.0, -1.0, -1.0, 1.0]))


def test_a_model_without_blocks_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"names no blocks .* Use optimizer=adamw"):
        make_optimizer(one_layer([1.0]), TrainConfig(optimizer="muon"))
