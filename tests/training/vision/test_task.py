"""Training on images: exact resume, averaged weights, what is logged, what is refused."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from spikeformers.errors import ConfigError, DataError
from spikeformers.models import load_vision_model
from spikeformers.training import TrainResult, train
from spikeformers.training.distributed import World
from spikeformers.training.journal import read_metrics
from spikeformers.training.vision import ImageStore, VisionConfig, VisionTask
from spikeformers.training.vision.config import TRAINING, UNUSED
from spikeformers.training.vision.store import ImageBatches
from spikeformers.training.vision.task import Classifier

ALONE = World(0, 1, torch.device("cpu"), "single")


def run(model: Any, store: ImageStore, out: Path, config: Any, **options: Any) -> TrainResult:
    vision = VisionConfig.from_dict(options.pop("vision", {}))
    task = VisionTask(model, vision)
    return train(model, store, store.prep, out, config, task=task, progress=False, **options)


def weights(out: Path) -> dict[str, bytes]:
    return {k: v.numpy().tobytes() for k, v in load_file(out / "model.safetensors").items()}


@pytest.mark.parametrize("control", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_an_interrupted_run_ends_bit_for_bit(
    tmp_path: Path, model: Any, store: Any, config: Any, control: bool, decay: float
) -> None:
    vision = {"mixup": 0.5, "cutmix": 1.0, "label_smoothing": 0.1, "ema_decay": decay}
    run(model(control=control), store(), tmp_path / "whole", config(), vision=vision)

    def stop(step: int, _: Any) -> None:
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    parts = (tmp_path / "parts", config())
    ended = run(model(control=control), store(), *parts, vision=vision, on_step=stop)
    assert ended.interrupted
    ended = run(model(7, control=control), store(), *parts, vision=vision, resume=True)
    assert (ended.interrupted, ended.tokens_seen) == (False, 6 * 8)
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


def test_it_learns_and_what_it_logs(tmp_path: Path, model: Any, store: Any, config: Any) -> None:
    net = model()
    result = run(net, store(), tmp_path, config(steps=40, eval_every=20))
    assert result.final_validation["accuracy"] == 1.0
    lines = read_metrics(tmp_path / "metrics.jsonl")
    first = lines[0]
    assert first["images_seen"] == 8
    assert "lm_loss" not in first
    assert first["images_per_second"] > 0
    norms = first["grad_norm_by_projection"]
    place = "model.layers.0.attention"
    assert {f"{place}.{name}" for name in ("query", "key", "value", "out")} <= norms.keys()
    assert min(norms.values()) > 0
    assert first["density"] > 0
    assert [line["step"] for line in lines if line["kind"] == "validation"] == [20, 40]
    batch = next(store().batches("validation", 12))
    with torch.no_grad():
        loaded = load_vision_model(tmp_path)
        assert torch.equal(loaded(batch["pixel_values"]).logits.argmax(-1), batch["labels"])


def test_averaged_weights_by_hand(model: Any, tmp_path: Path, store: Any, config: Any) -> None:
    net = model()
    task = VisionTask(net, VisionConfig(ema_decay=0.75))
    name = "head.weight"
    before = net.state_dict()[name].clone()
    with torch.no_grad():
        net.head.weight.add_(4.0)
        net.model.fire_out.neuron.train()
    task.stepped(1, ALONE)
    assert task.module.average is not None
    torch.testing.assert_close(task.module.average.state_dict()[name], before + 1.0)
    task.finish()
    torch.testing.assert_close(net.state_dict()[name], before + 1.0)
    with_average, without = model(), model()
    run(with_average, store(), tmp_path / "a", config(), vision={"ema_decay": 0.9})
    run(without, store(), tmp_path / "b", config())
    assert weights(tmp_path / "a") != weights(tmp_path / "b")


def test_soft_labels_and_smoothing_by_hand(model: Any) -> None:
    net = Classifier(model().eval(), VisionConfig(label_smoothing=0.3))
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    shares = torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.0, 1.0]])
    out = net(x, shares)
    smooth = 0.7 * shares + 0.1  # 0.3 over three classes
    expected = -(smooth * out.logits.log_softmax(-1)).sum(-1).mean()
    torch.testing.assert_close(out.loss, expected)


def test_batches_are_a_function_of_seed_and_step(store: Any, config: Any) -> None:
    vision = VisionConfig(mixup=0.5)
    first, second = (ImageBatches(store(), config(), vision, ALONE) for _ in range(2))
    second.of(0)
    for (a,), (b,) in ((first.of(5), second.of(5)), (first.of(2), second.of(2))):
        assert torch.equal(a.pixel_values, b.pixel_values)
        assert torch.equal(a.labels, b.labels)
    assert not torch.equal(first.of(5)[0].pixel_values, first.of(6)[0].pixel_values)
    state = torch.get_rng_state()
    first.of(3)
    assert torch.equal(torch.get_rng_state(), state)
    plain = ImageBatches(store(), config(), VisionConfig(), ALONE)
    halves = [
        ImageBatches(store(), config(), VisionConfig(), World(r, 2, ALONE.device, "ddp")).of(1)[0]
        for r in range(2)
    ]
    complete = plain.of(1)[0]
    assert torch.equal(torch.cat([half.pixel_values for half in halves]), complete.pixel_values)
    assert complete.pixel_values.min() >= -1
    assert complete.pixel_values.max() <= 1


def test_what_is_refused(tmp_path: Path, model: Any, store: Any, config: Any) -> None:
    with pytest.raises(ConfigError, match="has 4 classes; these data have 3"):
        run(model(num_labels=4), store(), tmp_path / "x", config())
    coloured = ImageStore(store().data, store(3).prep)
    with pytest.raises(DataError, match="8 x 8 of mode L; this model takes 8 x 8 of mode RGB"):
        run(model(channels=3), coloured, tmp_path / "y", config())
    with pytest.raises(ConfigError, match="Did you mean 'mixup'"):
        VisionConfig.from_dict({"mixip": 0.5})
    with pytest.raises(ConfigError, match="erasing is 2"):
        VisionConfig(erasing=2.0)
    with pytest.raises(ConfigError, match="colours"):
        ImageBatches(store(), config(), VisionConfig(randaugment=2), ALONE)


def test_a_resumed_run_has_the_same_augmentation(
    tmp_path: Path, model: Any, store: Any, config: Any
) -> None:
    run(model(), store(), tmp_path, config(), vision={"mixup": 0.5})
    with pytest.raises(ConfigError, match=r"another task: mixup was 0\.5, now 0\.0"):
        run(model(), store(), tmp_path, config(), resume=True)


def test_presets_bring_known_values() -> None:
    from dataclasses import fields

    from spikeformers.models import VISION_PRESETS
    from spikeformers.training import TrainConfig

    field_names = [{f.name for f in fields(kind)} for kind in (TrainConfig, VisionConfig)]
    assert TRAINING.keys() == VISION_PRESETS.keys()
    for values in TRAINING.values():
        assert values.keys() <= field_names[0] | field_names[1]
        TrainConfig.from_dict({k: v for k, v in values.items() if k in field_names[0]})
        VisionConfig.from_dict({k: v for k, v in values.items() if k in field_names[1]})
    assert not field_names[0] & field_names[1]
    assert field_names[0] >= set(UNUSED)


def test_broken_images_are_left_out_of_validation(store: Any, model: Any) -> None:
    held = store(broken="skip")
    reader = held.reader("validation")
    assert len(reader) == 12
    batches = list(held.batches("validation", 5))
    assert [len(batch["labels"]) for batch in batches] == [5, 5, 2]
    few = list(held.batches("validation", 5, limit=3))
    assert [len(batch["labels"]) for batch in few] == [3]
    rows = np.linspace(0, 11, 3).astype(int)
    expected = held.data.split("validation")
    assert few[0]["labels"].tolist() == expected.labels[expected.rows[rows]].tolist()
