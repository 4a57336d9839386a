"""What a token cost, layer by layer, and which tokens won its attention.

    text = engine.sequence(details=True)
    engine.feed(text, [464, 2068])
    engine.details(text).layers[0].winners     # ((0,), (1,)): of each head, places in the sequence

The figures are counts of the engine, not estimates, and the same for every instruction set. They
are those of each token by itself: rows of weights that several tokens of a call share count for
each of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spikeformers.kernels._native import CostTuple, DetailsTuple

Winners = tuple[tuple[int, ...], ...]
"""For each head, the tokens that won, best first; places in the sequence, from 0."""
_LAYER = re.compile(r"layers\.(\d+)\.")


@dataclass(frozen=True)
class SpikeCost:
    """Neurons that were computed, how many fired, and the bytes of weights read for them.

    A neuron counts once per simulation step. Attention's reads of its cache are not among the
    bytes, nor is the embedding.
    """

    neurons: int
    events: int
    weight_bytes: int

    @property
    def density(self) -> float:
        """Fraction of the neurons that fired; 0 where there are none."""
        return self.events / self.neurons if self.neurons else 0.0

    def __add__(self, other: SpikeCost) -> SpikeCost:
        return SpikeCost(
            self.neurons + other.neurons,
            self.events + other.events,
            self.weight_bytes + other.weight_bytes,
        )


@dataclass(frozen=True)
class LayerDetails:
    """One layer's part of a token."""

    cost: SpikeCost
    winners: Winners | None
    """None where the attention has no winners; where it grades them, of each head the key of
    greatest weight. With several simulation steps, those of the first step come first, and a token
    that won in more than one is named once."""


@dataclass(frozen=True)
class TokenDetails:
    """Details of the last token of a sequence, and sums over all of its tokens."""

    token: SpikeCost
    """Of the last token: its layers, and the head if logits were computed."""
    layers: tuple[LayerDetails, ...]
    tokens: int
    """Read since details are kept."""
    total: SpikeCost
    """Of all those tokens."""

    @property
    def winners(self) -> tuple[Winners | None, ...] | None:
        """Winners by layer, or None if no layer has any."""
        each = tuple(layer.winners for layer in self.layers)
        return None if all(winners is None for winners in each) else each


def read_details(counts: DetailsTuple) -> TokenDetails:
    """Details from the values that the native program returns."""
    tokens, total, layers, outside, winners = counts
    read = tuple(
        LayerDetails(_cost(cost), None if of is None else tuple(tuple(head) for head in of))
        for cost, of in zip(layers, winners, strict=True)
    )
    token = sum((layer.cost for layer in read), _cost(outside))
    return TokenDetails(token, read, tokens, _cost(total))


def _cost(counts: CostTuple) -> SpikeCost:
    return SpikeCost(*counts)


def layers_of(operations: Sequence[Mapping[str, Any]]) -> list[int]:
    """The layer of each operation of a description, from 0 in order of appearance; -1: none.

    An operation names buffers and tensors ("layers.3.query"); one that names no layer belongs to
    that of the operation before. From "select" on, which leaves the layers, it is none.
    """
    order: dict[str, int] = {}
    layers: list[int] = []
    present, left = -1, False
    for operation in operations:
        left = left or operation["op"] == "select"
        named = None if left else _layer_named(operation)
        if named is not None:
            present = order.setdefault(named, len(order))
        layers.append(-1 if left else present)
    return layers


def _layer_named(operation: Mapping[str, Any]) -> str | None:
    for value in operation.values():
        if isinstance(value, str) and (match := _LAYER.match(value)):
            return match[1]
        if isinstance(value, Mapping) and (named := _layer_named(value)) is not None:
            return named
    return None
