"""Densities on their way down: quantiles by hand, what a run ends at, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from spikeformers.conversion import density_of, make_plan, uncalibrated
from spikeformers.errors import ConfigError
from spikeformers.neurons import TokenIF
from spikeformers.training import TrainConfig, train
from spikeformers.training.density_schedule import (
    Course,
    DensitySchedule,
    quantile,
    sampled_sizes,
)
from spikeformers.training.distributed import World
from spikeformers.training.tune_converted import ConvertedTuning, train_only

from .conftest import gpt2

ALONE = World(0, 1, torch.device("cpu"), "single")
CONFIG = TrainConfig(steps=40, batch_size=4, context=16, learning_rate=1e-3, eval_batches=1)


def converted(causal: Any) -> Any:
    model = gpt2(causal.tokenizer, dropout=0.0)
    plan = make_plan(model, threshold="token", attention="kept")
    return uncalibrated(model, plan)


def courses(model: Any, causal: Any, end: float) -> dict[str, Course]:
    _, shares = density_of(model, windows(causal))
    return {name: Course(share, end) for name, share in shares.items()}


def windows(causal: Any) -> torch.Tensor:
    return torch.from_numpy(causal.store.split("train").tokens[:1024].astype("int64")).view(64, 16)


def test_a_course_goes_down_in_a_line_and_stays() -> None:
    course = Course(0.9, 0.5)
    assert [course.at(done) for done in (0.0, 0.25, 1.0, 3.0)] == pytest.approx(
        [0.9, 0.8, 0.5, 0.5]
    )


def test_quantiles_by_hand() -> None:
    """Rows [1, -1, 2, 4] and [0, 0, 3, -1] have the means 2 and 1."""
    sizes = sampled_sizes(torch.tensor([[[1.0, -1.0, 2.0, 4.0]], [[0.0, 0.0, 3.0, -1.0]]]))
    assert sizes.tolist() == [0.5, 0.5, 1.0, 2.0, 0.0, 0.0, 3.0, 1.0]
    assert [quantile(sizes, level) for level in (0.0, 0.25, 0.5, 0.75, 1.0)] == [
        *(0.0, 0.0, 0.5, 1.0, 3.0)
    ]


def test_tau_goes_a_quarter_of_the_way_each_step() -> None:
    """The quantile at the density 0.5 of [1, 1, 2, 4] is 0.5; a run continued beyond 10 steps."""
    model = torch.nn.ModuleDict({"fire": TokenIF(4, 8)})
    schedule = DensitySchedule(model, {"fire": Course(1.0, 0.5)}, ramp=1.0)
    schedule.start(TrainConfig(steps=20, schedule_steps=10), ALONE)
    x = torch.tensor([[[1.0, -1.0, 2.0, 4.0]]])
    for step, tau in ((10, 0.125), (10, 0.21875)):
        model["fire"].train()(x)
        schedule.stepped(step, ALONE)
        assert model["fire"].dead_zone.item() == pytest.approx(tau)
    model["fire"].eval()(x)
    assert not schedule._sizes  # validation is not watched
    schedule.close()
    model["fire"].train()(x)
    assert not schedule._sizes


def test_a_run_ends_at_its_densities(causal: Any, tmp_path: Path) -> None:
    model = converted(causal)
    before = model.get_parameter("model.transformer.h.0.mlp.down.weight").detach().clone()
    aims = courses(model, causal, 0.5)
    task = ConvertedTuning(model, "everything", DensitySchedule(model, aims))
    train(
        model, causal.store, causal.tokenizer, tmp_path / "run", CONFIG, task=task, progress=False
    )
    _, shares = density_of(model, windows(causal))
    assert all(course.start > 0.9 for course in aims.values())
    assert shares == pytest.approx(dict.fromkeys(aims, 0.5), abs=0.06)
    assert not torch.equal(model.get_parameter("model.transformer.h.0.mlp.down.weight"), before)
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["task"]["densities"] == {name: list(course) for name, course in aims.items()}


def test_a_resumed_run_is_the_same(causal: Any, tmp_path: Path) -> None:
    def run(folder: str, stop: int = 0, **changes: Any) -> dict[str, torch.Tensor]:
        model = converted(causal)
        task = ConvertedTuning(
            model, "everything", DensitySchedule(model, courses(model, causal, 0.5))
        )

        def on_step(step: int, _: Any) -> None:
            if step == stop:
                interrupt()

        train(
            model, causal.store, causal.tokenizer, tmp_path / folder, CONFIG, task=task,
            progress=False, on_step=on_step, **changes,
        )  # fmt: skip
        return dict(model.state_dict())

    whole = run("whole")
    run("parts", stop=7)
    resumed = run("parts", resume=True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def interrupt() -> None:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGINT)


def test_dead_zones_are_not_trained(causal: Any) -> None:
    model = converted(causal)
    zones = {name for name, _ in model.named_parameters() if name.endswith("dead_zone")}
    trained = train_only(model, "everything")
    assert zones
    assert trained == sum(p.numel() for p in model.parameters()) - len(zones)
    assert not any(model.get_parameter(name).requires_grad for name in zones)


def test_what_cannot_be_scheduled(causal: Any) -> None:
    model = converted(causal)
    with pytest.raises(ConfigError, match="transformer is not a layer of neurons"):
        DensitySchedule(model, {"transformer": Course(1.0, 0.5)})
    schedule = DensitySchedule(model, courses(model, causal, 0.5))
    with pytest.raises(ConfigError, match="compile=false"):
        schedule.start(TrainConfig(compile=True), ALONE)
    with pytest.raises(ConfigError, match="strategy=ddp"):
        schedule.start(TrainConfig(), World(0, 2, torch.device("cpu"), "fsdp"))
    with pytest.raises(ConfigError, match="convert with threshold='token'"):
        density_of(gpt2(causal.tokenizer), windows(causal))
