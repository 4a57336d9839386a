"""Accuracy of an image classifier, and entropy of its Q, K and V.

    accuracy     share of images whose most likely class is the true one; also per class
    confusion    images [true class][predicted class]
    entropy      H = -sum_v p(v) log2 p(v) over the values v that Q, K or V of a layer take

Proposition 1 of A2OS2A (https://arxiv.org/abs/2503.00226) bounds a value's entropy by its
type: 1 bit if binary, log2 3 = 1.585 bits if ternary, its own width if real. The entropy of reals
is that of ``BINS`` equal bins from 0 to the largest value and a separate bin for 0, so its ceiling
here is log2 (BINS + 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spikeformers.errors import ConfigError, DataError
from spikeformers.progress import Move

BINS = 256
ROLES = ("query", "key", "value")
Batches = Iterable[Mapping[str, Tensor]]


@dataclass(frozen=True)
class VisionReport:
    """Accuracy of a model on labelled images."""

    images: int
    accuracy: float
    loss: float
    """Nats per image."""
    per_class: dict[str, float | None]
    """Accuracy per class; None for a class without images."""
    confusion: list[list[int]]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Entropy:
    """Entropy of one role in one layer, in bits per value; ``kind`` is the type of its values."""

    layer: int
    role: str
    kind: str
    bits: float
    ceiling: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@torch.no_grad()
def classify(
    model: nn.Module,
    batches: Batches,
    classes: tuple[str, ...],
    progress: Move | None = None,
) -> VisionReport:
    """Run the model over ``{"pixel_values", "labels"}``; ``progress`` receives the images done.

    Raises DataError if there are no images.
    """
    training, device = model.training, next(model.parameters()).device
    model.eval()
    confusion = torch.zeros(len(classes), len(classes), dtype=torch.long)
    loss, done = 0.0, 0
    try:
        for batch in batches:
            logits = model(batch["pixel_values"].to(device)).logits.float().cpu()
            if logits.shape[-1] != len(classes):
                raise ConfigError(
                    f"the model has {logits.shape[-1]} classes; these data have {len(classes)}."
                )
            labels, predicted = batch["labels"], logits.argmax(-1)
            loss += float(nn.functional.cross_entropy(logits, labels, reduction="sum").double())
            confusion.index_put_((labels, predicted), torch.ones_like(labels), accumulate=True)
            done += len(labels)
            if progress is not None:
                progress(done, None)
    finally:
        model.train(training)
    images = int(confusion.sum())
    if images == 0:
        raise DataError("there are no images to measure on.")
    correct, of_class = confusion.diagonal(), confusion.sum(1)
    shares = [
        float(hits) / int(count) if count else None
        for hits, count in zip(correct, of_class, strict=True)
    ]
    return VisionReport(
        images,
        float(correct.sum()) / images,
        loss / images,
        dict(zip(classes, shares, strict=True)),
        confusion.tolist(),
    )


@torch.no_grad()
def entropy_of(model: nn.Module, batches: Iterable[Mapping[str, Tensor]]) -> list[Entropy]:
    """Entropy of Q, K and V of every layer, over all values of the batches; empty if dense.

    A batch is the input of ``model``, without labels.
    """
    emitters = _roles(model)
    outputs: dict[tuple[int, str], list[Tensor]] = {key: [] for key in emitters}

    def watch(key: tuple[int, str]) -> Callable[..., None]:
        return lambda _module, _inputs, out: outputs[key].append(
            out.detach().float().flatten().cpu()
        )

    handles = [module.register_forward_hook(watch(key)) for key, module in emitters.items()]
    training, device = model.training, next(model.parameters()).device
    model.eval()
    try:
        for batch in batches:
            model(**{name: x.to(device) for name, x in batch.items() if name != "labels"})
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return [
        Entropy(layer, role, *_measure(emitters[layer, role], torch.cat(values)))
        for (layer, role), values in outputs.items()
        if values
    ]


def _roles(model: nn.Module) -> dict[tuple[int, str], nn.Module]:
    """(layer, role) -> the module that emits it, if the attention has ``fire_query`` and so on."""
    emitters: dict[tuple[int, str], nn.Module] = {}
    for name, module in model.named_modules():
        parts = name.split(".")
        if hasattr(module, "spike_type") and len(parts) > 3:
            role, layer = parts[-2].removeprefix("fire_"), parts[-4]
            if role in ROLES and layer.isdigit() and parts[-3] == "attention":
                emitters[int(layer), role] = module
    return emitters


def _measure(module: Any, values: Tensor) -> tuple[str, float, float]:
    """Kind, bits per value, ceiling."""
    spike_type: str = module.spike_type
    if spike_type == "real":
        top = float(values.max())
        bins = torch.zeros_like(values) if top == 0 else (values / top * BINS).ceil()
        return "real", _bits(bins), math.log2(BINS + 1)
    sizes = module.levels * (2 if module.signed else 1)
    possible = {"binary": 2, "ternary": 3, "integer": sizes + 1}[spike_type]
    return spike_type, _bits(values), math.log2(possible)


def _bits(values: Tensor) -> float:
    counts = torch.unique(values, return_counts=True)[1].double()
    p = counts / counts.sum()
    return float(-(p * p.log2()).sum()) + 0.0
