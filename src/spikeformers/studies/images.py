"""Accuracy of an image classifier, entropy of its Q, K and V, and its energy."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from spikeformers.energy import EnergyReport, energy_of
from spikeformers.evaluation import Entropy, VisionReport, classify, entropy_of
from spikeformers.models import load_vision_model
from spikeformers.progress import Tell, watched
from spikeformers.studies.model_input import image_store
from spikeformers.training.journal import SEEN, read_metrics

ENTROPY_IMAGES = 256
ENERGY_IMAGES = 16


@dataclass(frozen=True)
class ImageStudy:
    """Figures of a classifier on one split of a set of images."""

    folder: Path
    report: VisionReport
    entropies: list[Entropy]
    """Of Q, K and V, on up to 256 images."""
    skipped: dict[str, str]
    """Images that could not be read -> the reason."""
    name: str
    """Of the images."""
    split_by: str
    facts: dict[str, Any]
    """model, data, split, sha256 of the data."""
    energy: EnergyReport | None
    """On 16 images, if requested."""
    journal: list[dict[str, Any]]
    """Lines of the training log; empty if the folder has none."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, as ``spikeformers evaluate vision --json`` prints them."""
        entropies = [entropy.as_dict() for entropy in self.entropies]
        more = {"entropy": entropies, "skipped": self.skipped}
        return self.report.as_dict() | more | self.facts


def evaluate_images(
    model: str | Path,
    data: str,
    *,
    split: str = "test",
    root: str = "",
    batch_size: int = 64,
    images: int = 0,
    fit: bool = False,
    broken: str = "refuse",
    energy: bool = False,
    progress: Tell | None = None,
) -> ImageStudy:
    """Accuracy of an image classifier, overall and per class, and entropy of its Q, K and V.

    ``data`` is digits, cifar10, cifar100, fashion-mnist, imagenet-folder, or a folder; ``images``
    is how many of the split, evenly spread, 0 for all; ``fit`` and ``broken`` as `image_store`.
    ``energy`` counts events too. Raises CheckpointError for the model, DataError for the images.
    """
    tell = progress or (lambda *_: None)
    folder = Path(model)
    loaded = load_vision_model(folder)
    store = image_store(folder, loaded.config, data, root=root, fit=fit, broken=broken)
    available = len(store.data.split(split))
    total = min(images or available, available)
    reader = store.reader(split)
    tell("classifying", 0, None)
    report = classify(
        loaded, store.batches(split, batch_size, images, reader=reader), store.data.classes,
        progress=lambda done, _: tell("classifying", done, total),
    )  # fmt: skip
    sample = store.batches(split, batch_size, ENTROPY_IMAGES, reader=reader)
    tell("entropy", 0, None)
    entropies = entropy_of(loaded, watched(sample, partial(tell, "entropy")))
    counted = energy_of(loaded, store.batches(split, 8, ENERGY_IMAGES)) if energy else None
    facts = {"model": str(model), "data": data, "split": split, "sha256": store.data.digest}
    return ImageStudy(
        folder, report, entropies, reader.skipped, store.data.name, store.data.split_by, facts,
        counted, read_metrics(folder / "metrics.jsonl", needed=("loss", SEEN)),
    )  # fmt: skip
