"""From a recipe, or from an earlier run's ``run.json``, to what `train` takes of images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikeformers.cli._output import is_main_process, say
from spikeformers.cli._recipe import Recipe, check_types, image_keys
from spikeformers.cli._resumed import (
    MODEL,
    REQUEST,
    VERB,
    VISION,
    read_record,
    refuse_another_verb,
)
from spikeformers.cli._run import finish, initialise, refuse_another_model
from spikeformers.errors import ConfigError, DataError
from spikeformers.values import require_kind

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from spikeformers.training import TrainConfig
    from spikeformers.training.vision import ImageStore, VisionConfig

IMAGES: dict[str, Any] = {
    **{"source": str, "root": str, "validation_fraction": float},
    **{"fit": bool, "broken": str},
}
"""What a request says of images."""


@dataclass
class VisionRun:
    """All that `train` takes, built."""

    store: ImageStore
    model: PreTrainedModel
    config: TrainConfig
    vision: VisionConfig
    request: dict[str, Any]


def prepare(recipe: Recipe) -> VisionRun:
    """Find the images, initialise the model. Raises ``UsageError``."""
    from spikeformers.models import build_vision_config, control_of
    from spikeformers.training import TrainConfig
    from spikeformers.training.vision import TRAINING, VisionConfig

    _check(recipe)
    own = TRAINING[recipe.preset]
    names = {field.name for field in fields(VisionConfig)}
    vision = VisionConfig.from_dict({k: v for k, v in own.items() if k in names} | recipe.vision)
    trained = {key: value for key, value in own.items() if key not in names} | recipe.train
    data = image_keys() | recipe.data
    spiking = build_vision_config(recipe.preset, recipe.model)
    store = open_images(data, spiking)
    classes = store.data.classes
    spiking = build_vision_config(
        recipe.preset,
        recipe.model
        | {
            "num_labels": len(classes),
            "id2label": dict(enumerate(classes)),
            "label2id": {name: i for i, name in enumerate(classes)},
        },
    )
    if vision.epochs and "steps" not in recipe.train:
        batch = TrainConfig.from_dict(trained).batch_size
        trained["steps"] = -(-vision.epochs * len(store.data.split("train")) // batch)
    config = TrainConfig.from_dict(trained)
    chosen = control_of(spiking) if recipe.control else spiking
    asked = {"preset": recipe.preset, "control": recipe.control}
    request = {VERB: "train-vision", **asked, VISION: data}
    return VisionRun(store, initialise(chosen, config.seed), config, vision, request)


def reopen(out: Path, changes: Recipe) -> VisionRun:
    """Everything as ``out/run.json`` says, with the training keys of ``changes`` on top."""
    from spikeformers.training.vision import VisionConfig

    record = read_record(out)
    refuse_another_verb(out, record.request, VISION in record.request)
    request = record.asked(MODEL)
    asked = record.part(request[VISION], IMAGES, VISION)
    asked = {key: value for key, value in asked.items() if key in image_keys()}
    refuse_another_model(out, request, changes)
    task = record.sections.get("task") or {}
    record.made(VisionConfig.from_dict, task, "task")
    config, chosen = record.train(changes.train), record.model()
    store = open_images(asked | changes.data, chosen)
    vision = VisionConfig.from_dict(task | changes.vision)
    return VisionRun(store, initialise(chosen, config.seed), config, vision, request)


def preset_of(out: Path) -> str:
    """The preset of a run of images, for the keys that a resumed run knows; "" of another."""
    record = read_record(out)
    return str(record.asked(MODEL)["preset"]) if VISION in record.request else ""


def open_images(data: Mapping[str, Any], config: PreTrainedConfig) -> ImageStore:
    """The images of a recipe's data section, prepared as a model of ``config`` takes them."""
    from spikeformers.data.images import Prep, load_images
    from spikeformers.training.vision import ImageStore

    options = {k: v for k, v in data.items() if k not in ("source", "fit", "broken")}
    found = load_images(str(data["source"]), **options)
    store = ImageStore(
        found, Prep(config.image_size, config.num_channels), data["fit"], data["broken"]
    )
    store.reader("train").whole_batch(_first_of(len(found.split("train"))))  # a mismatch shows here
    return store


def carry_out(run: VisionRun, out: Path, *, resume: bool, as_json: bool) -> None:
    """Train, then print how it ended; exit code 130 when it was interrupted."""
    from spikeformers.reporting.image_card import vision_card
    from spikeformers.training import train
    from spikeformers.training.vision import VisionTask

    run.store.manifest[REQUEST] = run.request
    if is_main_process():
        _describe(run)
    result = train(
        run.model,
        run.store,
        run.store.prep,
        out,
        run.config,
        task=VisionTask(run.model, run.vision),
        resume=resume,
        model_card=lambda result: vision_card(out.name, run.model, run.store, run.config, result),
    )
    finish(run.model, run.request, result, out, as_json=as_json, unit="image")


def _check(recipe: Recipe) -> None:
    from spikeformers.models import PRESETS, VISION_PRESETS, build_vision_config

    if recipe.preset in PRESETS:
        raise ConfigError(f"{recipe.preset} reads text: use spikeformers pretrain.")
    if not recipe.preset:
        raise ConfigError(
            f"no preset was named. Give --preset, one of {', '.join(VISION_PRESETS)}."
        )
    if recipe.distill:
        raise ConfigError(f"{next(iter(recipe.distill))} is a key of distillation, of text only.")
    if not recipe.data.get("source"):
        raise DataError("no images were named. Give --data: digits, a data set, or a folder.")
    for key, wanted in IMAGES.items():
        if key in recipe.data:
            require_kind(key, recipe.data[key], wanted)
    check_types(recipe.model, build_vision_config(recipe.preset))


def _first_of(count: int) -> Any:
    import numpy as np

    return np.arange(min(1, count))


def _describe(run: VisionRun) -> None:
    data, config = run.store.data, run.config
    sizes = ", ".join(f"{len(part):,} {name}" for name, part in data.splits.items())
    say(f"images    {data.name}, sha256 {data.digest[:12]}: {sizes}; {data.split_by}")
    prep = run.store.prep
    say(f"classes   {len(data.classes)}, of {prep.channels} x {prep.size} x {prep.size} pixels")
    say(f"model     {run.model.config.model_type}, {run.model.num_parameters():,} parameters")
    epochs = config.total_steps * config.batch_size / len(data.split("train"))
    say(
        f"training  {config.total_steps:,} steps of {config.batch_size} images, {epochs:.1f} epochs"
    )
