"""What an attention core is: spikes q, k, v in, one vector per query out.

    forward(q, k, v, allowed, bias) -> y      q, y [S, B, H, T, K]; k, v [S, B, H, J, K]

``allowed`` is a bool mask that broadcasts to ``[B, 1, T, J]``; a query that may see no key
gets zeros. ``bias`` ``[H, T, J]`` is added to the scores. ``weights(q, k, allowed, bias)``
returns the weight ``[S, B, H, T, J]`` of each key, for pictures and for counting; it is the
definition that ``forward`` computes.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from spikeformers.errors import ConfigError

Kind = TypeVar("Kind", bound="Attention")


class Attention(nn.Module):
    """Base of all attention cores.

    A core states its own facts, the attributes and methods below; whoever counts, audits or
    describes a model asks for them, so that a new core needs no change elsewhere.
    """

    weights_are_binary: bool = False
    """Every weight is 0 or 1, so that the output is a sum of V's spikes."""
    weights_are_real: bool = False
    """The weights are real numbers, even where they happen to be 0 and 1, as a softmax's may be.
    Otherwise a counter reads off the values what they are."""
    weights_are_fired: bool = False
    """A neuron inside fires the weights ``[S, B, H, T, J]``, so they follow its firing rate."""
    softmax_free: bool = True
    """No softmax is computed in the forward pass."""
    reads_per_query: int | None = None
    """The number of keys whose V rows a query reads; None where that grows with the keys."""
    keeps_state: bool = False
    """Keys and values are summed up in a state ``[K, K]`` per head, and no pair is compared."""
    has_competition: bool = False
    """Keys compete, by the rule that ``competition`` names."""
    competition: str | None = None
    """Name of the rule by which keys compete; None without a competition."""
    takes_bias: bool = True
    """A bias may join the scores. Where it may not, because they are multiplied with V as they are,
    a model has learned positions instead of relative ones."""
    scores_are_counts: bool = True
    """Both q and k are spikes, so that scores are multiples of the product of their units."""
    default_neurons: tuple[str, str, str] = ("binary", "binary", "binary")
    """What q, k and v fire in a model whose config has a neuron for each and names none."""
    score_unit: float | None = None
    """Product of q's and k's spike units where floats do not hold it exactly (D = 3, say).
    Scores are then rounded to its multiples, so that equal counts tie whatever the order of sums.
    """

    @classmethod
    def from_config(cls: type[Kind], config: Any) -> Kind:
        """A core as a model's config describes it; without options unless overridden."""
        return cls()

    @classmethod
    def role_neuron(cls, config: Any, role: str) -> nn.Module | None:
        """A fresh neuron for the ``role`` "query", "key" or "value" in a language model; None, and
        the model's own kind of neuron is taken, unless overridden.
        """
        return None

    def engine_rule(self) -> dict[str, Any]:
        """How keys are weighed, in the engine's words; ConfigError where it does not know it."""
        raise ConfigError(f"the engine does not know the attention {type(self).__name__}.")

    def reset_parameters(self) -> None:
        """Set what is learned back to where it starts; nothing unless overridden."""

    def scores(self, q: Tensor, k: Tensor, bias: Tensor | None) -> Tensor:
        """``q k^T + bias``, ``[S, B, H, T, J]``."""
        scores = self.coincidences(q, k)
        return scores if bias is None else scores + bias

    def coincidences(self, q: Tensor, k: Tensor) -> Tensor:
        """``q k^T``, rounded to ``score_unit`` where one is set."""
        scores = torch.matmul(q, k.transpose(-1, -2))
        if self.score_unit is not None:
            exact = torch.round(scores / self.score_unit) * self.score_unit
            scores = scores + (exact - scores).detach()
        return scores

    def weights(self, q: Tensor, k: Tensor, allowed: Tensor, bias: Tensor | None) -> Tensor:
        """Weight of each key for each query, ``[S, B, H, T, J]``."""
        raise TypeError(f"{type(self).__name__} does not define weights()")

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        """Weighted sum of v."""
        return torch.matmul(self.weights(q, k, allowed, bias), v)

    def operations(self, pairs: Tensor) -> dict[str, int]:
        """Elementwise operations between the two products, by kind; none unless overridden.

        ``pairs`` (bool, ``[..., T, J]``) are the pairs of a query and a key that are allowed. Kinds
        are add, mult, compare, function and winner_compare (a comparison that ranks keys). The
        bias and a neuron inside are counted by whoever asks.
        """
        return {}

    def stream(
        self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Rows of new tokens and the state after them, with ``keeps_state``."""
        raise TypeError(f"{type(self).__name__} keeps no state")

    def state_macs(self, q: Tensor) -> int:
        """Multiply-accumulates of ``forward`` for queries ``[..., T, K]``, with ``keeps_state``."""
        raise TypeError(f"{type(self).__name__} keeps no state")

    def points(self, value_type: str, values: str, *, fired: bool) -> list[tuple[str, str, str]]:
        """What flows inside, for descriptions: (point, spike type, values), in order.

        V holds ``values`` of ``value_type``; ``fired``: a neuron fires the output again.
        """
        binary = self.weights_are_binary
        weights = "0, 1" if binary else "real numbers"
        if binary and self.reads_per_query:
            weights += f"; ones a row: {self.reads_per_query}"
        output = ("attention output", value_type, f"the winner's value: {values}")
        if fired:
            output = ("weights times value", "integer" if binary else "real", "a sum of values")
        return [
            ("attention scores q k", "integer", "counts of coincidences, scaled"),
            ("attention weights", "binary" if binary else "real", weights),
            output,
        ]


class ScaledAttention(Attention):
    """An attention core with a factor on its scores."""

    def __init__(self, scale: float, heads: int = 1, learn_scale: bool = False) -> None:
        super().__init__()
        self.initial_scale = scale
        self.log_scale = nn.Parameter(torch.full((heads, 1, 1), math.log(scale)), learn_scale)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set the factor back to where it starts."""
        self.log_scale.fill_(math.log(self.initial_scale))

    def scale(self) -> Tensor:
        """Factor on ``q k^T`` of each head, ``[H, 1, 1]``.

        One positive number per head moves no winner by itself; beside a bias it does, and then
        dividing the bias by it once, after training, saves the product.
        """
        return self.log_scale.exp()

    def scores(self, q: Tensor, k: Tensor, bias: Tensor | None) -> Tensor:
        """``q k^T * scale + bias``, ``[S, B, H, T, J]``."""
        scores = self.coincidences(q, k) * self.scale()
        return scores if bias is None else scores + bias

    def extra_repr(self) -> str:
        learned = ", learned" if self.log_scale.requires_grad else ""
        return f"scale={self.initial_scale:.4g}{learned}"


def masked_softmax(scores: Tensor, allowed: Tensor) -> Tensor:
    """Softmax over the allowed keys; rows that allow none are zero, not NaN."""
    p = torch.softmax(scores.masked_fill(~allowed, float("-inf")), dim=-1)
    return p if bool(allowed.any(-1).all()) else torch.nan_to_num(p, nan=0.0)


def scale_of(config: Any) -> float:
    """S of a config: ``levels / sqrt(head width)`` unless it says another."""
    if config.attention_scale is not None:
        return float(config.attention_scale)
    return float(config.levels / math.sqrt(config.head_width))
