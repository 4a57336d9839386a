"""The parts of a model that data pass through one after another, from the modules' own ``chains``.

A module that names its ``chains`` (`Fire`, the MLPs, attention's projections, the convolutional
stem) is walked; what stands in none of them (attention itself, embeddings, sums) is not sequential.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from spikeformers.models.registry import is_vision
from spikeformers.neurons import Neuron


@dataclass
class Link:
    """One module of a chain, with the shape ``[...]`` of its input without steps and batch."""

    name: str
    module: nn.Module
    shape: tuple[int, ...] = ()
    steps: int = 1
    """Simulation steps that the module sees."""


@dataclass
class Chain:
    """Modules in the order in which data pass through them."""

    name: str
    links: list[Link] = field(default_factory=list)


def chains_of(model: Any) -> list[Chain]:
    """The chains of a model, with shapes that a forward pass of zeros has shown."""
    chains, inner = [], set[str]()
    for name, module in model.named_modules():
        paths = getattr(module, "chains", None)
        if paths is None or name in inner:
            continue
        for path in paths:
            links = [link for part in path for link in _links(module, name, part, inner)]
            if links:
                chains.append(Chain(_joined(name, path), links))
    _measure(model, chains)
    return chains


def _joined(name: str, path: tuple[str, ...]) -> str:
    """A name for the file: the module's, and what tells its chains apart."""
    linear = [
        part for part in path if not part.startswith(("fire", "shift")) and "norm" not in part
    ]
    return ".".join(filter(None, (name, "-".join(linear) or path[0])))


def _links(module: nn.Module, name: str, part: str, inner: set[str]) -> Iterator[Link]:
    child = getattr(module, part, None)
    if child is None:
        return
    full = f"{name}.{part}" if name else part
    paths = getattr(child, "chains", None)
    if paths is None:
        yield Link(full, child)
        return
    inner.add(full)
    for each in paths[0]:
        yield from _links(child, full, each, inner)


@torch.no_grad()
def _measure(model: Any, chains: list[Chain]) -> None:
    """Note the shapes of all links' inputs."""
    links: dict[nn.Module, list[Link]] = {}
    for chain in chains:
        for link in chain.links:
            links.setdefault(link.module, []).append(link)

    def see(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        shape = tuple(inputs[0].shape)
        for link in links[module]:
            link.shape = _without_batch(module, shape)
            link.steps = shape[0] if isinstance(module, Neuron) else 1

    handles = [module.register_forward_pre_hook(see) for module in links]
    training, config = model.training, model.config
    model.eval()
    try:
        if is_vision(config):
            frames = (config.steps,) if config.frames else ()
            model(torch.zeros(1, *frames, config.num_channels, *(config.image_size,) * 2))
        else:
            model(torch.zeros(1, 2, dtype=torch.long))
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()


def _without_batch(module: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    """``[S * B, C, H, W]`` of a convolution or a pool, ``[S, B, C, H, W]`` of a neuron between
    them, and ``[S, B, T, D]`` of all else.
    """
    if isinstance(module, (nn.Conv2d, nn.MaxPool2d)):
        return shape[1:]
    return shape[2:] if len(shape) == 5 else shape[-1:]
