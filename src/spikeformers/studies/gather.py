"""The data of pictures, from a run folder and from a model that reads a text."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from spikeformers.data import batch, consecutive_starts
from spikeformers.energy import neuron_names, raster_of, winners_of_sentence
from spikeformers.training.journal import SEEN, read_metrics

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from spikeformers.data import TokenSplit

SMOOTHING = 50  # points of a smoothed training loss, each a mean
_LAYER = re.compile(r"(?:^|\.)(?:layers|h)\.(\d+)\.(.+?)(?:\.neuron)?$")

EDGES = "attention edges"  # binary weights that a neuron fires (SFSA)
POINTS = {
    "attention.fire_in": "attention input",
    "attention.fire_query": "query",
    "attention.fire_key": "key",
    "attention.fire_value": "value",
    "attention.core": EDGES,
    "attention.fire_out": "attention output",
    "mlp.fire_in": "MLP input",
    "mlp.fire_act": "MLP activation",
    "mlp.fire_hidden": "MLP hidden",
    "mlp.fire_out": "MLP output",
}
ATTENTION_NAMES = ("self_attn.", "attn.")  # in the sources of converted models


@dataclass(frozen=True)
class Curve:
    """Losses of one run over the tokens it saw; ``validation`` in nats per token, like ``loss``."""

    name: str
    tokens: Sequence[float]
    loss: Sequence[float]
    validation_tokens: Sequence[float]
    validation: Sequence[float]


@dataclass(frozen=True)
class Raster:
    """Spikes of one block while it reads one sentence."""

    spikes: dict[str, NDArray[Any]]
    """Point -> counts ``[T, units]``, summed over simulation steps."""
    tokens: list[str]
    """The sentence, token by token."""
    levels: int
    """The largest count."""


def point_of(name: str) -> tuple[int | None, str]:
    """Block (from 0) and readable point of a neuron's module name."""
    match = _LAYER.search(name)
    if match is None:
        outside = {"head_neuron": "head", "model.encoder": "embedding"}
        outside |= {
            "model.fire_out": "head",
            "model.embeddings.position_neuron": "patches position",
        }
        short = name.removesuffix(".neuron")
        if short.startswith("model.embeddings.stage"):
            return None, short.replace("model.embeddings.", "patches ")
        return None, outside.get(short, short)
    path = match[2]
    for prefix in ATTENTION_NAMES:
        if path.startswith(prefix):
            path = path.replace(prefix, "attention.", 1)
    return int(match[1]), POINTS.get(path, path)


def loss_curve(name: str, run: Path) -> Curve:
    """The losses in ``run/metrics.jsonl``; the training loss is averaged over neighbours.

    A spiking run's loss is that of the language model, without the firing-rate penalty.
    """
    lines = read_metrics(run / "metrics.jsonl", needed=("loss", SEEN))
    train = [line for line in lines if line["kind"] == "train"]
    held_out = [line for line in lines if line["kind"] == "validation"]
    size = max(1, math.ceil(len(train) / SMOOTHING))
    groups = [train[start : start + size] for start in range(0, len(train), size)]
    return Curve(
        name,
        [float(np.mean([line["tokens_seen"] for line in group])) for group in groups],
        [float(np.mean([_loss(line) for line in group])) for group in groups],
        [line["tokens_seen"] for line in held_out],
        [line["loss"] for line in held_out],
    )


def _loss(line: Mapping[str, Any]) -> float:
    return float(line.get("lm_loss", line["loss"]))


def by_point(density: Mapping[str, float]) -> dict[str, list[float | None]]:
    """Densities by point, each a list over blocks; None for a block without such a neuron."""
    blocks = 1 + max((point_of(name)[0] or 0 for name in density), default=0)
    points: dict[str, list[float | None]] = {}
    for name, value in density.items():
        block, point = point_of(name)
        if block is not None:
            points.setdefault(point, [None] * blocks)[block] = value
    order = list(POINTS.values())
    return dict(sorted(points.items(), key=lambda item: (*order, item[0]).index(item[0])))


def outside_blocks(density: Mapping[str, float]) -> dict[str, float]:
    """Densities of neurons outside the blocks, such as the one before the head."""
    named = {point_of(name): value for name, value in density.items()}
    return {point: value for (block, point), value in named.items() if block is None}


def rasters(
    model: PreTrainedModel, ids: torch.Tensor, block: int, units: int = 64
) -> tuple[dict[str, NDArray[Any]], int]:
    """Spike counts ``[T, units]`` of one block's neurons for one text, and the largest count.

    Counts are summed over simulation steps; wider layers show ``units`` evenly spaced ones.
    """
    counts_of: dict[str, NDArray[Any]] = {}
    for name in neuron_names(model):
        at, point = point_of(name)
        if at == block and point != EDGES:  # their axes are keys; the attention's map shows them
            counts = raster_of(model, ids, name).T
            width = counts.shape[1]
            counts_of[point] = counts[:, np.linspace(0, width - 1, min(units, width)).astype(int)]
    levels = max((int(np.abs(counts).max()) for counts in counts_of.values()), default=1)
    order = [*(point for point in POINTS.values() if point in counts_of), *counts_of]
    return {point: counts_of[point] for point in dict.fromkeys(order)}, max(1, levels)


def raster_of_sentence(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ids: torch.Tensor
) -> Raster:
    """The raster of the block in the middle on ``ids`` ``[1, T]``; empty if it has no neuron."""
    block = math.ceil(model.config.num_hidden_layers / 2) - 1
    spikes, levels = rasters(model, ids, block)
    return Raster(spikes, spelled(tokenizer, ids[0].tolist()), levels)


def attention_weights(
    model: PreTrainedModel, ids: torch.Tensor, most: int = 4
) -> dict[str, NDArray[Any]]:
    """Attention weights ``[heads, T, T]`` of up to ``most`` evenly spaced blocks, one text."""
    maps = winners_of_sentence(model, ids)
    chosen = sorted({round(i) for i in np.linspace(0, len(maps) - 1, min(most, len(maps)))})
    return {f"block {i + 1} of {len(maps)}": maps[i] for i in chosen}


def spelled(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """Each token as text, for axes."""
    return [tokenizer.decode([int(i)]) for i in ids]


def windows_of(
    split: TokenSplit, context: int, tokens: int, batch_size: int = 8
) -> list[torch.Tensor]:
    """Batches ``[B, context]`` of about ``tokens`` tokens, from windows spread over the split."""
    context = min(context, split.num_tokens)
    starts = consecutive_starts(split.num_tokens, context)
    count = min(len(starts), max(1, tokens // context))
    chosen = starts[np.linspace(0, len(starts) - 1, count).astype(int)]
    return [
        torch.from_numpy(batch(split, chosen[first : first + batch_size], context))
        for first in range(0, count, batch_size)
    ]
