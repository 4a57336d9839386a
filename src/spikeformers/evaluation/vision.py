"""How often an image classifier finds the class, and what its Q, K and V carry.

    accuracy     share of images whose likeliest class is the right one; also of each class
    confusion    images [true class][found class]
    entropy      H = -sum_v p(v) log2 p(v) over the values v that Q, K or V of a layer take

Proposition 1 of A2OS2A (https://arxiv.org/abs/2503.00226) bounds a value's entropy by what it can
be: 1 bit if binary, log2 3 = 1.585 bits if ternary, its own width if real. The entropy of reals is
of ``BINS`` equal bins from 0 to the largest value (0 apart from the rest of its bin), so that its
ceiling here is log2 (BINS + 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spikeformers.errors import ConfigError, DataError
from spikeformers.neurons import Neuron
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
    """Nats an image."""
    per_class: dict[str, float | None]
    """Share found, by class; None of a class without images."""
    confusion: list[list[int]]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Entropy:
    """Of one role in one layer: what its values are, and how much they say, in bits a value."""

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
    """Run the model over ``{"pixel_values", "labels"}``; ``progress`` gets the images done.

    DataError where there is no image.
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
                    f"the model tells {logits.shape[-1]} classes apart; these data have "
                    f"{len(classes)}."
                )
            labels, found = batch["labels"], logits.argmax(-1)
            loss += float(nn.functional.cross_entropy(logits, labels, reduction="sum").double())
            confusion.index_put_((labels, found), torch.ones_like(labels), accumulate=True)
            done += len(labels)
            if progress is not None:
                progress(done, None)
    finally:
        model.train(training)
    images = int(confusion.sum())
    if images == 0:
        raise DataError("there is no image to measure on.")
    right, of_class = confusion.diagonal(), confusion.sum(1)
    shares = [
        float(hit) / int(count) if count else None
        for hit, count in zip(right, of_class, strict=True)
    ]
    return VisionReport(
        images,
        float(right.sum()) / images,
        loss / images,
        dict(zip(classes, shares, strict=True)),
        confusion.tolist(),
    )


@torch.no_grad()
def entropy_of(model: nn.Module, batches: Iterable[Mapping[str, Tensor]]) -> list[Entropy]:
    """Entropy of Q, K and V of every layer, over all values of the batches; none if dense.

    A batch is what ``model`` takes, without labels.
    """
    watched = _roles(model)
    seen: dict[tuple[int, str], list[Tensor]] = {key: [] for key in watched}

    def watch(key: tuple[int, str]) -> Callable[..., None]:
        return lambda _module, _inputs, out: seen[key].append(out.detach().float().flatten().cpu())

    handles = [module.register_forward_hook(watch(key)) for key, module in watched.items()]
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
        Entropy(layer, role, *_measure(watched[layer, role], torch.cat(values)))
        for (layer, role), values in seen.items()
        if values
    ]


def _roles(model: nn.Module) -> dict[tuple[int, str], nn.Module]:
    """(layer, role) -> what emits it, of models whose attention has ``fire_query`` and so on."""
    found: dict[tuple[int, str], nn.Module] = {}
    for name, module in model.named_modules():
        parts = name.split(".")
        if hasattr(module, "spike_type") and len(parts) > 3:
            role, layer = parts[-2].removeprefix("fire_"), parts[-4]
            if role in ROLES and layer.isdigit() and parts[-3] == "attention":
                found[int(layer), role] = module
    return found


def _measure(module: nn.Module, values: Tensor) -> tuple[str, float, float]:
    """Kind, bits a value, ceiling."""
    if not isinstance(module, Neuron):
        top = float(values.max())
        bins = torch.zeros_like(values) if top == 0 else (values / top * BINS).ceil()
        return "real", _bits(bins), math.log2(BINS + 1)
    possible = {"binary": 2, "ternary": 3, "integer": module.levels + 1}[module.spike_type]
    return module.spike_type, _bits(values), math.log2(possible)


def _bits(values: Tensor) -> float:
    counts = torch.unique(values, return_counts=True)[1].double()
    p = counts / counts.sum()
    return float(-(p * p.log2()).sum()) + 0.0
