"""What a model is made of: shapes, parameters, and what flows at each point of it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from torch import nn

from spikeformers.attention import A2OS2A, Attention
from spikeformers.models.registry import is_vision
from spikeformers.neurons import IF, Neuron, Rectifier
from spikeformers.reporting.gather import EDGES, POINTS, point_of

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


def describe(model: PreTrainedModel) -> dict[str, Any]:
    """Plain values: ``model_type``, ``class``, ``parameters`` (tied ones once), ``shape``,
    ``neuron`` and ``attention`` (None for a dense model), ``points`` and ``tensors``.

    ``points``: ``{"point", "spike_type", "values"}`` in the order of the forward pass, one block
    for all. ``tensors``: ``{"name", "shape", "count", "parameters"}``, blocks folded into ``*``.
    Works on the meta device.
    """
    config = model.config
    known = SHAPE | IMAGE_SHAPE if is_vision(config) else SHAPE
    shape = {name: getattr(config, key, None) for key, name in known.items()}
    if shape["MLP width"] is None and shape["width"]:
        shape["MLP width"] = 4 * shape["width"]  # GPT-2 leaves it unset
    neurons = {name: m for name, m in model.named_modules() if isinstance(m, Neuron)}
    core = next((m for m in model.modules() if isinstance(m, Attention)), None)
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


def spike_values(neuron: Neuron) -> str:
    """What a neuron emits in one step, such as ``0, 1/4, ... 4/4``; IF neurons hand on the sum of
    their T steps, unless unrolled.
    """
    if isinstance(neuron, IF) and neuron.spike_type == "integer":
        least = -neuron.largest if neuron.signed else 0
        return f"{least}, ... {neuron.largest}, the sum of {neuron.simulated} steps"
    if neuron.spike_type == "binary":
        return "0, 1"
    if neuron.spike_type == "ternary":
        return "-1, 0, 1" if isinstance(neuron, IF) else "-a, 0, a"
    if neuron.unit == 1:
        return f"0, 1, ... {neuron.levels}"
    return f"0, 1/{neuron.levels}, ... {neuron.levels}/{neuron.levels}"


def _neuron(model: PreTrainedModel, neurons: dict[str, Neuron]) -> dict[str, Any] | None:
    first = next(iter(neurons.values()), None)
    if first is None:
        return None
    config = model.config
    return {
        "kind": config.neuron,
        "spike_type": first.spike_type,
        "steps": config.steps,
        "levels": 1 if isinstance(first, IF) else first.levels,
        "values": spike_values(first),
        "layers": len(neurons),
        "detail": first.extra_repr(),
    }


def _attention(config: Any, core: Attention) -> dict[str, Any]:
    return {
        "kind": config.attention,
        "competition": config.wta if hasattr(core, "competition") else None,
        "winners": core.winners_per_query,
        "binary_weights": core.weights_are_binary,
        "causal": bool(config.causal),
        "detail": core.extra_repr(),
    }


def _points(
    model: PreTrainedModel, neurons: dict[str, Neuron], core: Attention | None
) -> list[dict[str, str]]:
    def point(name: str, spike_type: str, values: str) -> dict[str, str]:
        return {"point": name, "spike_type": spike_type, "values": values}

    real = "real numbers"
    images = is_vision(model.config)
    if not neurons:
        names = ("patches" if images else "embedding", "attention", "MLP", "head")
        return [point(name, "real", real) for name in names]
    found = {point_of(name)[1]: neuron for name, neuron in neurons.items()}
    rows = [
        point("pixels" if images else "embedding", "real", real),
        *(
            point(name, found[name].spike_type, spike_values(found.pop(name)))
            for name in [name for name in found if name.startswith("patches ")]
        ),
        point("stream between blocks", *getattr(model.base_model, "stream", ("real", real))),
    ]
    if core is None:  # a converted model that kept its softmax
        rows.append(point("attention", "real", real))
    if "embedding" in found:
        fired = found.pop("embedding")
        rows.insert(1, point("embedding, fired", fired.spike_type, spike_values(fired)))
    found.pop(EDGES, None)  # told with the attention's weights
    rectified = {point_of(name)[1] for name, m in model.named_modules() if isinstance(m, Rectifier)}
    shifted = ("attention input", "MLP input") if getattr(model.config, "token_shift", 0) else ()
    for name in (*POINTS.values(), *sorted(set(found) - set(POINTS.values()) - {"head"})):
        if name in found:
            before = "; half of them the token's before" if name in shifted else ""
            values = spike_values(found[name]) + before
            rows.append(point(name, found[name].spike_type, values))
        elif name in rectified:
            rows.append(point(name, "real", "real numbers, 0 or greater"))
        if name == "value" and core is not None:
            value = found.get(name)
            rows += _attention_points(point, core, value, fired="attention output" in found)
    head = found.get("head")
    if images and head is not None:
        rows.append(point("in front of the head", head.spike_type, spike_values(head)))
        head = None  # which reads their mean over steps and patches
    rows.append(
        point("head input", "real", real)
        if head is None
        else point("head input", head.spike_type, spike_values(head))
    )
    return [*rows, point("logits", "real", real)]


def _attention_points(point: Any, core: Attention, value: Neuron | None, *, fired: bool) -> Any:
    if isinstance(core, A2OS2A):
        yield point("Q K^T V", "real", f"sums of entries of K with signs; order {core.order}")
        return
    assert value is not None
    binary = core.weights_are_binary
    weights = "0, 1" if binary else "real numbers"
    if binary and core.winners_per_query:
        weights += f"; ones a row: {core.winners_per_query}"
    yield point("attention scores q k", "integer", "counts of coincidences, scaled")
    yield point("attention weights", "binary" if binary else "real", weights)
    if not fired:
        yield point(
            "attention output", value.spike_type, f"the winner's value: {spike_values(value)}"
        )
    else:
        yield point("weights times value", "integer" if binary else "real", "a sum of values")


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
