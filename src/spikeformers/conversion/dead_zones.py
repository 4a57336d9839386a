"""Dead zones of neurons with a threshold per token, for a share of the weights that is read.

    density   sum_p weights_p * (share of spikes at p that are not zero) / sum_p weights_p

A place is a layer of neurons; its weights are those of the linear maps that read it, including the
head's. A token reads the rows of what fires, so the density is the share of weights it reads.

    cost_p(tau) = 1/2 E_t [ (g_t . d_t)^2 ],   d_t = -x_t where |x_t| < tau mean |x_t|, else 0

with g_t the gradient of the text's cross-entropy by the values of place p at token t: the
second-order (Fisher) estimate of what silence costs in nats, all places at once from one backward
pass per window. Places are then silenced step by step, each time the one that costs least per
weight, until the density is reached, the last step as far as needed. Steps are those of the convex
hull of a place's costs, so that an expensive first step does not hide a cheap second one. The
density that the model with these dead zones has on the same text differs a little (silence changes
what comes after), so the aim is corrected by the difference.

Nothing is drawn at random: the same model, text and density give the same dead zones. Teal
(https://arxiv.org/abs/2408.14690) allocates thresholds greedily within a block, by the error of its
output; here all places of the model compete, by the estimated loss.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from spikeformers.errors import ConfigError
from spikeformers.neurons import Neuron, observe
from spikeformers.neurons.token_if import relative_size
from spikeformers.progress import Move, watched

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BINS_PER_MEAN = 64
BINS = 3 * BINS_PER_MEAN  # dead zones are searched up to three times the mean
CORRECTIONS = 3
CLOSE = 0.0025  # how far from the requested density is close enough
TOKENS_PER_PASS = 512  # of windows that are shorter


@dataclass
class LayerCosts:
    """One layer of neurons: what reads it, and its costs and silence by bins of |x| / mean."""

    name: str
    neuron: Neuron
    weights: int
    costs: Tensor = field(default_factory=lambda: torch.zeros(BINS, dtype=torch.float64))
    """Sum over tokens of the squared change, everything up to and with this bin silenced."""
    silent: Tensor = field(default_factory=lambda: torch.zeros(BINS, dtype=torch.float64))
    """Values that do not fire, everything up to and with this bin silenced."""
    values: int = 0
    mute: int = 0
    """Values whose count is zero without a dead zone."""
    tokens: int = 0


class Step(NamedTuple):
    """One more step of silence at a place."""

    slope: float
    """Nats per token for each weight that is not read."""
    bins: int
    """How many are silenced after it."""
    saved: float
    """Weights per token that it saves."""


def check_density(density: float) -> None:
    """ConfigError unless ``density`` lies between 0 and 1."""
    if not (math.isfinite(density) and 0 < density < 1):
        raise ConfigError(f"density must lie between 0 and 1, not {density}.")


def places_of(model: nn.Module) -> list[LayerCosts]:
    """The layers of neurons with a dead zone, in the order of the model."""
    places = []
    for name, module in model.named_modules():
        readers = module.readers() if hasattr(module, "readers") else {}
        for layer, weights in readers.items():
            neuron = getattr(module, layer)
            if neuron is not None and neuron.has_dead_zone:
                places.append(LayerCosts(f"{name}.{layer}", neuron, weights))
    return places


def _places_in(model: nn.Module) -> list[LayerCosts]:
    if not (places := places_of(model)):
        raise ConfigError(
            "this model has no neurons with a threshold per token: convert with threshold='token'."
        )
    return places


def allocate(
    model: PreTrainedModel, windows: Tensor, density: float, progress: Move | None = None
) -> list[dict[str, Any]]:
    """Set the dead zones of ``model`` so that it reads ``density`` of its spiking maps' weights.

    ``windows`` ``[W, T]`` are the calibration text. Returns a row per place: name, dead_zone,
    density, weights. Raises ConfigError for a density out of (0, 1), for a model without neurons
    that have a threshold per token, and for a density that is out of reach.
    """
    check_density(density)
    places = _places_in(model)
    _set(places, [0.0] * len(places))
    for part in watched(_passes(windows), progress):
        _collect(model, places, part.to(model.device))
    hulls, aim = [_hull(place) for place in places], density
    for _ in range(CORRECTIONS):
        _set(places, _greedy(places, hulls, aim))
        reached, shares = density_of(model, windows)
        if abs(reached - density) < CLOSE:
            break
        aim = min(max(aim + density - reached, 1e-3), 1 - 1e-3)
    return [
        {
            "name": place.name,
            "dead_zone": float(place.neuron.dead_zone.detach()),
            "density": shares[place.name],
            "weights": place.weights,
        }
        for place in places
    ]


@torch.no_grad()
def density_of(model: PreTrainedModel, windows: Tensor) -> tuple[float, dict[str, float]]:
    """Share of the spiking maps' weights that a token reads, and the density of each place.

    ConfigError for a model without neurons that have a threshold per token.
    """
    places = {place.name: place for place in _places_in(model)}
    fired, values = dict.fromkeys(places, 0), dict.fromkeys(places, 0)

    def count(name: str, _: nn.Module, spikes: Tensor) -> None:
        if name in places:
            fired[name] += int(torch.count_nonzero(spikes))
            values[name] += spikes.numel()

    with observe(model, count):
        for part in _passes(windows):
            model(input_ids=part.to(model.device), use_cache=False)
    shares = {name: fired[name] / max(values[name], 1) for name in places}
    read = sum(shares[name] * place.weights for name, place in places.items())
    return read / sum(place.weights for place in places.values()), shares


def _passes(windows: Tensor) -> tuple[Tensor, ...]:
    return windows.split(max(1, TOKENS_PER_PASS // windows.shape[1]))


def _set(places: list[LayerCosts], zones: list[float]) -> None:
    with torch.no_grad():
        for place, zone in zip(places, zones, strict=True):
            place.neuron.dead_zone.fill_(zone)


def _collect(model: PreTrainedModel, places: list[LayerCosts], windows: Tensor) -> None:
    """Add the costs of windows ``[W, T]`` to ``places``."""
    currents: dict[str, Tensor] = {}
    counts: dict[str, Tensor] = {}

    def keep(name: str, neuron: nn.Module, current: Tensor, spikes: Tensor) -> None:
        current.retain_grad()
        currents[name], counts[name] = current, spikes.detach()

    with _frozen(model), _currents(places, keep):
        logits = model(input_ids=windows, use_cache=False).logits[:, :-1].float()
        targets = windows[:, 1:].flatten()
        nn.functional.cross_entropy(logits.flatten(0, 1), targets, reduction="sum").backward()
    for place in places:
        current = currents[place.name]
        gradient = current.grad
        if gradient is None:
            raise ConfigError(f"no gradient reaches {place.name}; its model cannot be calibrated.")
        _add(place, current.detach()[0], gradient[0], counts[place.name][0])


def _add(place: LayerCosts, x: Tensor, gradient: Tensor, counts: Tensor) -> None:
    """Add tokens ``[1, T, D]``."""
    x, gradient, counts = (tensor.flatten(0, -2).double() for tensor in (x, gradient, counts))
    bins = (relative_size(x) * BINS_PER_MEAN).long()
    bins = bins.clamp(max=BINS)  # the last is beyond any dead zone
    change = torch.zeros(len(x), BINS + 1, dtype=torch.float64, device=x.device)
    change.scatter_add_(1, bins, gradient * x)
    place.costs += change[:, :BINS].cumsum(1).square().sum(0).cpu() / 2
    fires = counts != 0
    per_bin = torch.bincount(bins[fires], minlength=BINS + 1)[:BINS].double().cpu()
    place.mute += int((~fires).sum())
    place.silent += per_bin.cumsum(0)
    place.values += x.numel()
    place.tokens += len(x)


@contextmanager
def _frozen(model: PreTrainedModel) -> Iterator[None]:
    """No gradients of parameters, gradients from the embedding on."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.requires_grad_(False)
    embedding = model.get_input_embeddings()
    handle = embedding.register_forward_hook(lambda _, __, out: out.requires_grad_(True))
    try:
        with torch.enable_grad():
            yield
    finally:
        handle.remove()
        for parameter, required in before:
            parameter.requires_grad_(required)


@contextmanager
def _currents(places: list[LayerCosts], keep: Any) -> Iterator[None]:
    def hook(name: str) -> Any:
        def call(neuron: nn.Module, args: tuple[Tensor, ...], spikes: Tensor) -> None:
            keep(name, neuron, args[0], spikes)

        return call

    handles = [place.neuron.register_forward_hook(hook(place.name)) for place in places]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hull(place: LayerCosts) -> list[Step]:
    """The steps of the lower convex hull of a place's costs, the cheapest first."""
    points = [(0.0, 0.0, 0)]
    for number in range(BINS):
        saved = float(place.silent[number]) / place.values * place.weights
        cost = float(place.costs[number]) / place.tokens
        if saved <= points[-1][0]:
            continue
        points.append((saved, cost, number + 1))
        while len(points) > 2 and _slope(points[-3], points[-2]) >= _slope(points[-2], points[-1]):
            del points[-2]
    return [Step(_slope(a, b), b[2], b[0] - a[0]) for a, b in pairwise(points)]


def _slope(a: tuple[float, float, int], b: tuple[float, float, int]) -> float:
    return max(b[1] - a[1], 0.0) / (b[0] - a[0])


def _greedy(places: list[LayerCosts], hulls: list[list[Step]], density: float) -> list[float]:
    """Dead zones by the cheapest steps first, until ``density`` of the weights are read."""
    total = sum(place.weights for place in places)
    read = sum(place.weights * (1 - place.mute / place.values) for place in places)
    steps = sorted((step, number) for number, hull in enumerate(hulls) for step in hull)
    zones = [0] * len(places)
    for step, number in steps:
        if read <= density * total:
            break
        bins, saved = _part_of(step, places[number], zones[number], read - density * total)
        zones[number], read = bins, read - saved
    else:
        if read > density * total:
            raise ConfigError(
                f"a density of {density:.3f} is out of reach: dead zones of "
                f"{BINS // BINS_PER_MEAN} times the mean leave {read / total:.3f}."
            )
    return [bins / BINS_PER_MEAN for bins in zones]


def _part_of(step: Step, place: LayerCosts, before: int, needed: float) -> tuple[int, float]:
    """Bins and weights saved of ``step``, or of as much of it as saves the weights ``needed``."""
    if step.saved <= needed:
        return step.bins, step.saved
    silent = place.silent / place.values * place.weights
    start = float(silent[before - 1]) if before else 0.0
    for number in range(before, step.bins):
        if (saved := float(silent[number]) - start) >= needed:
            return number + 1, saved
    return step.bins, step.saved
