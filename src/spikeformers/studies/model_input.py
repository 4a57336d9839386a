"""The input of a study's model: windows of a text, or images, as the model takes them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikeformers.data import load_corpus, tokenize_corpus
from spikeformers.evaluation import context_of
from spikeformers.models import load_model, load_vision_model
from spikeformers.models.loading import check_folder, read_config
from spikeformers.models.registry import is_vision
from spikeformers.packaged import folder_or_path
from spikeformers.progress import Tell
from spikeformers.studies.gather import windows_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from spikeformers.data import Corpus, TokenSplit
    from spikeformers.training.vision import ImageStore


@dataclass
class ModelInput:
    """A model, batches for it, and facts about both."""

    folder: Path
    model: PreTrainedModel
    batches: list[Any]
    """Token ids ``[B, context]``, or mappings with ``pixel_values`` ``[B, C, H, W]``."""
    unit: str
    """What figures refer to: "token" or "image"."""
    name: str
    """Of the text or the images."""
    facts: dict[str, Any]
    """For JSON: data, split, sha256, and context (of text)."""
    tokenizer: Any = None
    """Of a text model."""


def read_input(
    model: str | Path,
    data: str,
    *,
    split: str = "validation",
    tokens: int = 4096,
    text_field: str = "text",
    images: int = 64,
    root: str = "",
    batch_size: int = 8,
    progress: Tell | None = None,
) -> ModelInput:
    """Load a model folder and about ``tokens`` tokens of text, or ``images`` images, for it.

    ``data`` is a text (builtin, a file, a folder, a data set on the hub; ``text_field`` of JSONL
    and Parquet) or, for an image classifier, a set of images (``root`` holds named ones). Raises
    CheckpointError for the model, DataError and UsageError for the data.
    """
    folder = folder_or_path(model)
    check_folder(folder)
    if is_vision(read_config(folder)):
        loaded = load_vision_model(folder)
        store = image_store(folder, loaded.config, data, root=root)
        batches = list(store.batches(split, batch_size, images))
        facts: dict[str, Any] = {"data": data, "split": split, "sha256": store.data.digest}
        return ModelInput(folder, loaded, batches, "image", store.data.name, facts)
    loaded, tokenizer = load_model(folder)
    corpus = load_corpus(data, text_field=text_field)
    part = read_split(corpus, tokenizer, split, progress)
    windows = windows_of(part, context_of(loaded), tokens, batch_size=batch_size)
    facts = {"context": windows[0].shape[1], "data": data, "split": split, "sha256": corpus.digest}
    return ModelInput(folder, loaded, windows, "token", corpus.name, facts, tokenizer)


def read_split(
    corpus: Corpus, tokenizer: Any, split: str, progress: Tell | None = None
) -> TokenSplit:
    """Tokens of one split of a text; ``progress`` receives the bytes read."""
    move = None if progress is None else partial(progress, "reading the text")
    return tokenize_corpus(corpus, tokenizer, progress=move).split(split)


def image_store(
    model: Path,
    config: PreTrainedConfig,
    data: str,
    *,
    root: str = "",
    fit: bool = False,
    broken: str = "refuse",
) -> ImageStore:
    """The images that ``data`` names, as the model in the folder takes them.

    ``fit`` converts, resizes and crops images of another size or mode. ``broken`` is "refuse" or
    "skip", for images that cannot be read.
    """
    from spikeformers.data.images import Prep, load_images
    from spikeformers.training.vision import ImageStore

    images = load_images(data, root=root)
    prep = Prep.from_pretrained(model, config)
    return ImageStore(images, prep, fit, broken)
