"""Spikes of a run, for tables and pictures: density by layer, a raster, the winners' map."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spikeformers.energy.counting.operands import Batch, Rows, counts, inputs_of, operand
from spikeformers.energy.counting.rules import spikes_by
from spikeformers.energy.counting.trace import Operand
from spikeformers.errors import ConfigError, nearest
from spikeformers.neurons import Neuron, neurons_of, observe


def density_of(model: nn.Module, batches: Iterable[Batch]) -> dict[str, Operand]:
    """Kind, density and mean count of every neuron layer, padding left out.

    A layer with several kinds of neurons has a row for each, such as ``layer.near`` and
    ``layer.far``; the layer's own row counts all of them.
    """
    by_layer: dict[str, Operand] = {}
    for batch in batches:
        inputs, rows = inputs_of(batch)

        def record(name: str, neuron: Neuron, spikes: Tensor, rows: Rows = rows) -> None:
            kinds = {name: spikes}
            for population, own in neuron.populations(spikes).items():
                kinds[f"{name}.{population}"] = own
            for layer, own in kinds.items():
                counted = operand(_without_padding(own, neuron, rows), spikes_by(neuron))
                if layer in by_layer:
                    by_layer[layer].merge(counted)
                else:
                    by_layer[layer] = counted

        with observe(model, record):
            _run(model, inputs)
    return by_layer


def _without_padding(spikes: Tensor, neuron: Neuron, rows: Rows) -> Tensor:
    """Spikes of real tokens; for edges ``[..., B, H, T, J]`` those between two real tokens."""
    if len(neuron.token_axes) == 1 or rows.keep is None:
        return rows.select(spikes)
    pairs = rows.keep.unsqueeze(-1) & rows.keep.unsqueeze(-2)
    return spikes[pairs.unsqueeze(1).expand(spikes.shape)]


def density_by_position(model: nn.Module, batches: Iterable[Batch]) -> NDArray[np.float64]:
    """Share of a token's neurons that fire, by its position in the sequence, ``[T]``.

    Each neuron layer has the same weight; padding and edges between tokens are left out.
    ConfigError for a model without neurons.
    """
    sums: dict[str, Tensor] = {}
    sizes: dict[str, Tensor] = {}
    for batch in batches:
        inputs, rows = inputs_of(batch)
        mask = inputs.get("attention_mask", torch.ones(rows.shape)).double()

        def record(name: str, neuron: Neuron, spikes: Tensor, mask: Tensor = mask) -> None:
            if len(neuron.token_axes) != 1:
                return
            fired = (spikes != 0).reshape(-1, *mask.shape, spikes.shape[-1]).double()
            shares = (fired.mean((0, -1)) * mask).sum(0)
            longest = max(len(shares), len(sums.get(name, shares)))
            for totals, new in ((sums, shares), (sizes, mask.sum(0))):
                total = torch.zeros(longest, dtype=torch.float64)
                for part in (totals.get(name), new):
                    if part is not None:
                        total[: len(part)] += part
                totals[name] = total

        with observe(model, record):
            _run(model, inputs)
    if not sums:
        raise ConfigError(f"{type(model).__name__} has no neurons whose outputs belong to tokens.")
    shares = torch.stack([sums[name] / sizes[name].clamp_min(1) for name in sums])
    density: NDArray[np.float64] = shares.mean(0).numpy()
    return density


def neuron_names(model: nn.Module) -> list[str]:
    """Names of the model's neuron layers, in order."""
    return list(neurons_of(model))


def raster_of(model: nn.Module, ids: Tensor, name: str) -> NDArray[np.float32]:
    """Counts of the neuron layer ``name`` on one sentence, summed over steps, ``[neurons, T]``.

    ``ids`` is ``[T]`` or ``[1, T]``; ternary spikes keep their sign. ConfigError suggests a name if
    there is no layer of this name.
    """
    names = neuron_names(model)
    if name not in names:
        raise ConfigError(
            f"no neuron layer is called {name!r}.{nearest(name, names)} "
            f"This model has {len(names)}, {names[0]!r} among them." if names else
            f"no neuron layer is called {name!r}: {type(model).__name__} has no neurons."
        )  # fmt: skip
    recorded: list[Tensor] = []

    def record(at: str, neuron: Neuron, spikes: Tensor) -> None:
        if at == name:
            recorded.append(counts(spikes, spikes_by(neuron)) * spikes.sign())

    with observe(model, record):
        _run(model, {"input_ids": ids.reshape(1, -1)})
    tokens = ids.numel()
    summed = recorded[0].reshape(-1, tokens, recorded[0].shape[-1]).sum(0)
    raster: NDArray[np.float32] = summed.T.cpu().numpy().astype(np.float32)
    return raster


def winners_of_sentence(model: nn.Module, ids: Tensor) -> NDArray[np.float32]:
    """Attention weights on one sentence, mean over steps, ``[layers, heads, T, T]``.

    Hard and top-K weights are the winners. ConfigError for a model that does not give its weights
    (a dense one that runs a fused kernel).
    """
    out = _run(model, {"input_ids": ids.reshape(1, -1), "output_attentions": True})
    maps = getattr(out, "attentions", None)
    if not maps or any(weights is None for weights in maps):
        raise ConfigError(
            f"{type(model).__name__} returns no attention weights; load a dense model with "
            "attn_implementation='eager' to see them."
        )
    stacked: NDArray[np.float32] = (
        torch.stack([weights[0] for weights in maps]).float().cpu().numpy()
    )
    return stacked


def _run(model: nn.Module, inputs: dict[str, Any]) -> Any:
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            return model(**inputs)
    finally:
        model.train(training)
