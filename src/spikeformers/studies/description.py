"""A model's architecture: shapes, parameters, and the values at each point."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from spikeformers.attention import Attention, cores_of
from spikeformers.errors import CheckpointError, nearest
from spikeformers.models import (
    PRESETS,
    VISION_PRESETS,
    WDSpikingformerConfig,
    build_config,
    build_model,
    build_vision_config,
)
from spikeformers.models.loading import load_weights
from spikeformers.models.registry import is_vision
from spikeformers.neurons import Neuron, neurons_of
from spikeformers.packaged import KNOWN, folder_or_path
from spikeformers.studies.gather import EDGES, POINTS, point_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SHAPE = {
    "hidden_size": "width",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "intermediate_size": "MLP width",
    "vocab_size": "vocabulary",
    "max_position_embeddings": "positions",
}
IMAGE_SHAPE = {"image_size": "image size", "num_channels": "channels", "num_labels": "classes"}
_BLOCK = re.compile(r"(?<=\.)\d+(?=\.)")


def describe(model: PreTrainedModel | str | Path) -> dict[str, Any]:
    """Describe a model; ``model`` is one, its folder, or the name of a preset or packaged model.

    A preset is described with the vocabulary size of its default config, without memory for its
    weights. Raises CheckpointError for a name that is neither.

    Plain values: ``model_type``, ``class``, ``parameters`` (tied ones once), ``shape``, ``neuron``
    and ``attention`` (None for a dense model), ``points`` and ``tensors``.

    ``points``: ``{"point", "spike_type", "values"}`` in the order of the forward pass, with one
    block for all. ``tensors``: ``{"name", "shape", "count", "parameters"}``, blocks folded
    into ``*``. Works on the meta device.
    """
    if isinstance(model, (str, Path)):
        model = open_described(str(model))
    config = model.config
    fields = SHAPE | IMAGE_SHAPE if is_vision(config) else SHAPE
    shape = {name: getattr(config, key, None) for key, name in fields.items()}
    if shape["MLP width"] is None and shape["width"]:
        shape["MLP width"] = 4 * shape["width"]  # GPT-2 leaves it unset
    neurons, core = neurons_of(model), next(iter(cores_of(model)), None)
    return {
        "model_type": config.model_type,
        "class": type(model).__name__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "shape": shape,
        "neuron": _neuron(model, neurons),
        "attention": None if core is None else _attention(config, core),
        "points": _points(model, neurons, core),
        "tensors": _tensors(model),
    }


def open_described(name: str) -> PreTrainedModel:
    """Load a folder's model, or build a preset on the meta device. CheckpointError for neither."""
    presets = [*PRESETS, *VISION_PRESETS]
    with torch.device("meta"):
        if name in PRESETS:
            return build_model(build_config(name, WDSpikingformerConfig().vocab_size))
        if name in VISION_PRESETS:
            return build_model(build_vision_config(name))
    folder = folder_or_path(name)
    if not folder.exists():
        raise CheckpointError(
            f"{name} is neither a model folder nor a preset ({', '.join(presets)})."
            f"{nearest(name, [*presets, *KNOWN])}"
        )
    return load_weights(folder)


def _neuron(model: PreTrainedModel, neurons: dict[str, Neuron]) -> dict[str, Any] | None:
    first = next(iter(neurons.values()), None)
    if first is None:
        return None
    config = model.config
    by_place = getattr(config, "has_neurons_by_place", False)
    return {
        "kind": "by place" if by_place else config.neuron,
        "spike_type": first.spike_type,
        "steps": config.steps,
        "levels": first.step_levels,
        "values": first.values(),
        "places": getattr(config, "neuron_rows", dict)(),
        "by_place": by_place,
        "layers": len(neurons),
        "detail": first.extra_repr(),
    }


def _attention(config: Any, core: Attention) -> dict[str, Any]:
    return {
        "kind": config.attention,
        "competition": core.competition,
        "winners": core.reads_per_query,
        "binary_weights": core.weights_are_binary,
        "softmax_free": core.softmax_free,
        "causal": bool(config.causal),
        "detail": core.extra_repr(),
    }


def _points(
    model: PreTrainedModel, neurons: dict[str, Neuron], core: Attention | None
) -> list[dict[str, str]]:
    real = "real numbers"
    images = is_vision(model.config)
    if not neurons:
        names = ("patches" if images else "embedding", "attention", "MLP", "head")
        return [_point(name, "real", real) for name in names]
    emitters = {point_of(name)[1]: neuron for name, neuron in neurons.items()}
    rows = [
        _point("pixels" if images else "embedding", "real", real),
        *(
            _emitted(name, emitters.pop(name))
            for name in [name for name in emitters if name.startswith("patches ")]
        ),
        _point("stream between blocks", *getattr(model.base_model, "stream", ("real", real))),
    ]
    if core is None:  # a converted model that kept its softmax
        rows.append(_point("attention", "real", real))
    if "embedding" in emitters:
        rows.insert(1, _emitted("embedding, fired", emitters.pop("embedding")))
    emitters.pop(EDGES, None)  # described with the attention's weights
    head = emitters.pop("head", None)
    emitters |= _real_emitters(model)
    shifted = ("attention input", "MLP input") if getattr(model.config, "token_shift", 0) else ()
    for name in (*POINTS.values(), *sorted(set(emitters) - set(POINTS.values()))):
        if name in emitters:
            before = "; half of them from the token before" if name in shifted else ""
            rows.append(_emitted(name, emitters[name], before))
        if name == "value" and core is not None:
            value: Any = emitters.get(name)
            stated = ("real", real) if value is None else (value.spike_type, value.values())
            fired = "attention output" in emitters
            rows += [_point(*inside) for inside in core.points(*stated, fired=fired)]
    if images and head is not None:
        rows.append(_emitted("in front of the head", head))
        head = None  # which reads their mean over steps and patches
    rows.append(
        _point("head input", "real", real) if head is None else _emitted("head input", head)
    )
    return [*rows, _point("logits", "real", real)]


def _point(name: str, spike_type: str, values: str) -> dict[str, str]:
    return {"point": name, "spike_type": spike_type, "values": values}


def _emitted(name: str, emitter: Any, before: str = "") -> dict[str, str]:
    """The point ``name``, where a neuron or a module in its place emits."""
    return _point(name, emitter.spike_type, emitter.values() + before)


def _real_emitters(model: nn.Module) -> dict[str, Any]:
    """Modules that replace a neuron and emit real numbers, by point."""
    return {
        point_of(name)[1]: module
        for name, module in model.named_modules()
        if getattr(module, "spike_type", None) == "real"
    }


def _tensors(model: nn.Module) -> list[dict[str, Any]]:
    rows: dict[tuple[str, tuple[int, ...]], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        key = (_BLOCK.sub("*", name), tuple(parameter.shape))
        row = rows.setdefault(
            key, {"name": key[0], "shape": list(key[1]), "count": 0, "parameters": 0}
        )
        row["count"] += 1
        row["parameters"] += parameter.numel()
    return list(rows.values())
