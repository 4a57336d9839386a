"""Training on images: a spiking vision transformer, or its dense twin, from scratch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spikeformers.data.images import Prep, load_images
from spikeformers.errors import ConfigError, DataError
from spikeformers.models import PRESETS, VISION_PRESETS, build_vision_config, control_of
from spikeformers.progress import Listener
from spikeformers.reporting import vision_card
from spikeformers.runs.prepared import (
    PreparedRun,
    RunResult,
    carry_out,
    check_out,
    initialise,
    model_request,
    refuse_another_model,
)
from spikeformers.runs.recipe import (
    Recipe,
    RecipeSource,
    Settings,
    check_types,
    image_keys,
    make_recipe,
)
from spikeformers.runs.record import (
    MODEL,
    VERB,
    VISION,
    read_record,
    refuse_another_verb,
)
from spikeformers.runs.reporter import OnMessage, Reporter
from spikeformers.training import TrainConfig, TrainResult
from spikeformers.training.vision import TRAINING, ImageStore, VisionConfig, VisionTask
from spikeformers.values import require_kind

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

IMAGES: dict[str, Any] = {
    **{"source": str, "root": str, "validation_fraction": float},
    **{"fit": bool, "broken": str},
}
"""Keys of a request for images."""


def train_vision(
    preset: str = "",
    *,
    out: str | Path,
    data: str | Path = "",
    root: str | Path = "",
    recipe: RecipeSource | None = None,
    settings: Settings | None = None,
    control: bool = False,
    resume: bool = False,
    progress: Listener | None = None,
    on_message: OnMessage | None = None,
) -> RunResult:
    """Train an image classifier from scratch into the run folder ``out``, as ``train-vision`` does.

    ``data`` is digits, cifar10, cifar100, fashion-mnist, imagenet-folder (in ``root``), or a folder
    of images, npz, IDX or CIFAR's binary files; nmnist and dvs-gesture (in ``root``), or a folder
    of such recordings of events, which a model of ``frames`` reads, one frame per step. A preset
    includes its training settings; ``settings`` are fields of TrainConfig, VisionConfig and the
    model's config, and keys of the data. All else as in `pretrain`.
    """
    out, reporter = Path(out), Reporter(progress, on_message)
    check_out(out, resume=resume)
    sources = {"source": str(data), "root": str(root)}
    named = Recipe(preset, control, data={key: value for key, value in sources.items() if value})
    resolved = make_recipe(recipe, named, settings, _preset_of(out) if resume else "")
    run = reopen(out, resolved) if resume else prepare(resolved)
    return carry_out(run, out, reporter, resume=resume)


def prepare(recipe: Recipe) -> PreparedRun:
    """Load the images and initialise the model. Raises ``UsageError``."""
    _check(recipe)
    defaults = TRAINING[recipe.preset]
    names = {field.name for field in fields(VisionConfig)}
    vision_defaults = {key: value for key, value in defaults.items() if key in names}
    vision = VisionConfig.from_dict(vision_defaults | recipe.vision)
    training = {k: v for k, v in defaults.items() if k not in names} | recipe.train
    data = image_keys() | recipe.data
    store = open_images(data, build_vision_config(recipe.preset, recipe.model))
    classes = store.data.classes
    labels = {
        "num_labels": len(classes),
        "id2label": dict(enumerate(classes)),
        "label2id": {name: index for index, name in enumerate(classes)},
    }
    spiking = build_vision_config(recipe.preset, recipe.model | labels)
    if vision.epochs and "steps" not in recipe.train:
        batch = TrainConfig.from_dict(training).batch_size
        training["steps"] = -(-vision.epochs * len(store.data.split("train")) // batch)
    config = TrainConfig.from_dict(training)
    new_model = initialise(control_of(spiking) if recipe.control else spiking, config.seed)
    request = {VERB: "train-vision", **model_request(recipe), VISION: data}
    return _prepared(store, new_model, config, vision, request)


def reopen(out: Path, changes: Recipe) -> PreparedRun:
    """Prepare the run of ``out/run.json``, with the training keys of ``changes`` on top."""
    record = read_record(out)
    refuse_another_verb(out, record.request, VISION in record.request)
    request = record.checked_request(MODEL)
    data = record.part(request[VISION], IMAGES, VISION)
    data = {key: value for key, value in data.items() if key in image_keys()}
    refuse_another_model(out, request, changes)
    task = record.sections.get("task") or {}
    record.build(VisionConfig.from_dict, task, "task")
    config, model = record.train_config(changes.train), record.model_config()
    store = open_images(data | changes.data, model)
    vision = VisionConfig.from_dict(task | changes.vision)
    return _prepared(store, initialise(model, config.seed), config, vision, request)


def _preset_of(out: Path) -> str:
    """The preset of a resumed run on images, which determines its keys; "" for another run."""
    record = read_record(out)
    return str(record.checked_request(MODEL)["preset"]) if VISION in record.request else ""


def open_images(data: Mapping[str, Any], config: PreTrainedConfig) -> ImageStore:
    """The images of a recipe's data section, prepared as a model of ``config`` takes them."""
    options = {k: v for k, v in data.items() if k not in ("source", "fit", "broken")}
    images = load_images(str(data["source"]), **options)
    store = ImageStore(images, Prep.of(config), data["fit"], data["broken"])
    first = np.arange(min(1, len(images.split("train"))))
    store.reader("train").whole_batch(first)  # raises for images that do not fit the model
    return store


def _check(recipe: Recipe) -> None:
    if recipe.preset in PRESETS:
        raise ConfigError(f"{recipe.preset} reads text: use spikeformers pretrain.")
    if not recipe.preset:
        raise ConfigError(
            f"no preset was named. Give --preset, one of {', '.join(VISION_PRESETS)}."
        )
    if recipe.distill:
        raise ConfigError(
            f"{next(iter(recipe.distill))} is a key of distillation, which is for text only."
        )
    if not recipe.data.get("source"):
        raise DataError("no images were named. Give --data: digits, a data set, or a folder.")
    for key, kind in IMAGES.items():
        if key in recipe.data:
            require_kind(key, recipe.data[key], kind)
    check_types(recipe.model, build_vision_config(recipe.preset))


def _prepared(
    store: ImageStore,
    model: PreTrainedModel,
    config: TrainConfig,
    vision: VisionConfig,
    request: dict[str, Any],
) -> PreparedRun:
    def card(name: str, result: TrainResult) -> str:
        return vision_card(name, model, store, config, result)

    description = _description(store, model, config)
    task = VisionTask(model, vision)
    return PreparedRun(
        store, store.prep, model, config, request, description, card, task, unit="image"
    )


def _description(store: ImageStore, model: PreTrainedModel, config: TrainConfig) -> Sequence[str]:
    data, prep = store.data, store.prep
    sizes = ", ".join(f"{len(part):,} {name}" for name, part in data.splits.items())
    epochs = config.total_steps * config.batch_size / len(data.split("train"))
    steps = f"{config.total_steps:,} steps of {config.batch_size} images"
    return [
        f"images    {data.name}, sha256 {data.digest[:12]}: {sizes}; {data.split_by}",
        f"classes   {len(data.classes)}, of {' x '.join(map(str, prep.shape))} pixels",
        f"model     {model.config.model_type}, {model.num_parameters():,} parameters",
        f"training  {steps}, {epochs:.1f} epochs",
    ]
