"""Multiply-accumulates of a transformer from its sizes only; the count of a run must match them.

For one sequence of T tokens, without biases, norms or softmax:

    projections   T * layers * (2 D^2 + 2 D K)   Q and output, K and V (K = D unless grouped)
    attention     pairs * layers * 2 D           Q K^T and A V
    mlp           T * layers * (2, gated 3) * D * hidden
    head          T * D * vocabulary

``pairs`` is T (T + 1) / 2 for causal attention (as the tracer counts), T^2 if all entries of the
square are counted (as FLOP counters do), 0 if attention is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from spikeformers.errors import ConfigError

Pairs = Literal["causal", "square", "none"]


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of one sequence by part of the model."""

    projections: int
    attention: int
    mlp: int
    head: int

    @property
    def blocks(self) -> int:
        """Sum of all parts except the head."""
        return self.projections + self.attention + self.mlp

    @property
    def total(self) -> int:
        """Sum of all parts."""
        return self.blocks + self.head


@dataclass(frozen=True)
class TransformerShape:
    """The sizes that the matrix products of a transformer depend on."""

    width: int
    layers: int
    hidden: int
    vocabulary: int
    key_width: int | None = None
    """Width of all keys together if keys have fewer heads than queries; None: ``width``."""
    gated: bool = False
    """The MLP has three matrices."""

    def macs(self, tokens: int, pairs: Pairs = "causal") -> Macs:
        """Multiply-accumulates of one sequence of ``tokens``; ConfigError for other ``pairs``."""
        if pairs not in get_args(Pairs):
            raise ConfigError(f"pairs are {', '.join(get_args(Pairs))}, not {pairs!r}.")
        keys = self.width if self.key_width is None else self.key_width
        pairs_per_head = {"causal": tokens * (tokens + 1) // 2, "square": tokens**2, "none": 0}[
            pairs
        ]
        return Macs(
            projections=tokens * self.layers * 2 * self.width * (self.width + keys),
            attention=pairs_per_head * self.layers * 2 * self.width,
            mlp=tokens * self.layers * (3 if self.gated else 2) * self.width * self.hidden,
            head=tokens * self.width * self.vocabulary,
        )
