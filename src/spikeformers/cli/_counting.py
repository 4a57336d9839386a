"""What `energy` and `audit` run a model over: windows of a text, or images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from spikeformers.training.vision import ImageStore


@dataclass
class Material:
    """A model, batches for it, and what to say of them."""

    model: PreTrainedModel
    batches: list[Any]
    unit: str
    name: str
    facts: dict[str, Any]
    """For JSON: data, split, sha256, and context (of text)."""
    tokenizer: Any = None
    """Of a text model."""


def is_vision_folder(model: Path) -> bool:
    """Whether a model folder holds an image classifier; CheckpointError as ``load_model``."""
    from spikeformers.models.loading import check_folder, read_config
    from spikeformers.models.registry import is_vision

    check_folder(model)
    return is_vision(read_config(model))


def read_material(
    model: Path,
    data: str,
    split: str,
    *,
    tokens: int,
    text_field: str,
    images: int,
    root: str,
    one_by_one: bool = False,
) -> Material:
    """Load a model and about ``tokens`` tokens, or ``images`` images, of what it reads."""
    from spikeformers.cli._output import tokenize
    from spikeformers.data import load_corpus
    from spikeformers.evaluation import context_of
    from spikeformers.models import load_model, load_vision_model
    from spikeformers.reporting import windows_of

    size = 1 if one_by_one else 8
    if is_vision_folder(model):
        loaded = load_vision_model(model)
        store = store_of(model, loaded.config, data, root)
        found = list(store.batches(split, size, images))
        facts: dict[str, Any] = {"data": data, "split": split, "sha256": store.data.digest}
        return Material(loaded, found, "image", store.data.name, facts)
    loaded, tokenizer = load_model(model)
    corpus = load_corpus(data, text_field=text_field)
    part = tokenize(corpus, tokenizer).split(split)
    windows = windows_of(part, context_of(loaded), tokens, batch_size=size)
    facts = {"context": windows[0].shape[1], "data": data, "split": split, "sha256": corpus.digest}
    return Material(loaded, windows, "token", corpus.name, facts, tokenizer)


def store_of(
    model: Path,
    config: PreTrainedConfig,
    data: str,
    root: str,
    *,
    fit: bool = False,
    broken: str = "refuse",
    validation_fraction: float | None = None,
) -> ImageStore:
    """The images that ``data`` names, as the model in the folder takes them."""
    from spikeformers.data.images import Prep, load_images
    from spikeformers.training.vision import ImageStore

    more = {} if validation_fraction is None else {"validation_fraction": validation_fraction}
    found = load_images(data, root=root, **more)
    prep = Prep.from_pretrained(model, config.image_size, config.num_channels)
    return ImageStore(found, prep, fit, broken)
