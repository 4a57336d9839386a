"""The interface of an attention core: spikes q, k, v in, one vector per query out.

    forward(q, k, v, allowed, bias) -> y      q, y [S, B, H, T, K]; k, v [S, B, H, J, K]

``allowed`` is a bool mask that broadcasts to ``[B, 1, T, J]``; a query that may see no key
gets zeros. ``bias`` ``[H, T, J]`` is added to the scores. ``weights(q, k, allowed, bias)``
returns the weight ``[S, B, H, T, J]`` of each key, for pictures and for counting; it defines
what ``forward`` computes. A core that ``streams`` takes `Pairs` for both as well.
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

    A core states its own facts in the attributes and methods below. Counting, auditing and
    reporting read them, so that a new core needs no change elsewhere.
    """

    counted_as: str = "core"
    """How a count of operations treats the module (`energy.counting.module_stack.kind_of`)."""
    weights_are_binary: bool = False
    """Every weight is 0 or 1, so that the output is a sum of V's spikes."""
    weights_are_real: bool = False
    """The weights are real numbers even if they happen to be 0 and 1, as a softmax's may be.
    If this is false, the counter classifies the weights by their values."""
    weights_are_fired: bool = False
    """A neuron inside fires the weights ``[S, B, H, T, J]``, so they follow its firing rate."""
    averages: bool = False
    """Each output is a mean of V's rows, whose weights sum to about one: smaller than V itself."""
    softmax_free: bool = True
    """No softmax is computed in the forward pass."""
    reads_per_query: int | None = None
    """The number of keys whose V rows a query reads; None if it grows with the number of keys."""
    keeps_state: bool = False
    """Keys and values are summed into a state ``[K, K]`` per head; no pair is scored."""
    has_competition: bool = False
    """Keys compete, by the rule that ``competition`` names."""
    competition: str | None = None
    """Name of the rule by which keys compete; None without a competition."""
    takes_bias: bool = True
    """A bias may be added to the scores. If not (the scores are multiplied with V as they
    are), a model has learned positions instead of relative ones."""
    scores_are_counts: bool = True
    """Both q and k are spikes, so that scores are multiples of the product of their units."""
    options: tuple[str, ...] = ()
    """Fields of a config that this core alone reads, so that to set one is to choose the core."""
    default_neurons: tuple[str, str, str] = ("binary", "binary", "binary")
    """Neurons behind q, k and v, for a config that has one field for each and leaves it empty."""
    exact_in_half: bool = False
    """q, k and v are spikes that bfloat16 holds exactly, so that half precision invents no ties."""
    score_unit: float | Tensor | None = None
    """Product of q's and k's spike units if floats do not hold it exactly (such as D = 3).
    Scores are then rounded to its multiples, so that equal counts tie whatever the order of sums.
    """

    @classmethod
    def from_config(cls: type[Kind], config: Any) -> Kind:
        """A core as a model's config describes it; by default one without options."""
        return cls()

    @classmethod
    def role_neuron(cls, config: Any, role: str) -> nn.Module | None:
        """A new neuron for the ``role`` "query", "key" or "value" in a language model.

        None, the default, stands for the model's own kind of neuron.
        """
        return None

    @property
    def hands_on_one_row(self) -> bool:
        """Whether each output is one row of V, so that it already is spikes."""
        return self.weights_are_binary and self.reads_per_query == 1

    def scale(self) -> Tensor:
        """Factor on ``q k^T`` of each head, ``[H, 1, 1]``, or of all heads, ``[1, 1, 1]``."""
        return torch.ones(1, 1, 1)

    def streams(self, device: str) -> bool:
        """Whether ``forward`` takes `Pairs` and makes no matrix of queries and keys on a torch
        device type; by default it does not.
        """
        return False

    def engine_rule(self) -> dict[str, Any]:
        """How keys are weighted, in the engine's format; ConfigError if the engine has no rule."""
        raise ConfigError(f"the engine does not know the attention {type(self).__name__}.")

    def reset_parameters(self) -> None:
        """Set learned parameters back to their initial values; by default there are none."""

    def scores(self, q: Tensor, k: Tensor, bias: Tensor | None) -> Tensor:
        """``q k^T + bias``, ``[S, B, H, T, J]``."""
        scores = self.coincidences(q, k)
        return scores if bias is None else scores + bias

    def coincidences(self, q: Tensor, k: Tensor) -> Tensor:
        """``q k^T``, rounded to ``score_unit`` if one is set."""
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
        """Elementwise operations between the two products, by kind; by default none.

        ``pairs`` (bool, ``[..., T, J]``) marks the allowed pairs of a query and a key. Kinds are
        add, mult, compare, function and winner_compare (a comparison that ranks keys). The caller
        counts the bias and a neuron inside.
        """
        return {}

    def stream(
        self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Outputs of new tokens and the state after them; only with ``keeps_state``."""
        raise TypeError(f"{type(self).__name__} keeps no state")

    def state_macs(self, q: Tensor) -> int:
        """Multiply-accumulates of ``forward`` for queries ``[..., T, K]``; with ``keeps_state``."""
        raise TypeError(f"{type(self).__name__} keeps no state")

    def points(self, value_type: str, values: str, *, fired: bool) -> list[tuple[str, str, str]]:
        """The signals inside, for descriptions: (name, spike type, values), in order.

        V holds ``values`` of ``value_type``; ``fired``: a neuron turns the output into spikes.
        """
        binary = self.weights_are_binary
        weights = "0, 1" if binary else "real numbers"
        if binary and self.reads_per_query:
            weights += f"; ones per row: {self.reads_per_query}"
        output = ("attention output", value_type, f"the winner's value: {values}")
        if fired:
            output = ("weights times value", "integer" if binary else "real", "a sum of values")
        return [
            ("attention scores q k", "integer", "counts of coincidences, scaled"),
            ("attention weights", "binary" if binary else "real", weights),
            output,
        ]


def cores_of(model: nn.Module) -> list[Attention]:
    """The attention cores in ``model``, in the order of its modules."""
    return [part for part in model.modules() if isinstance(part, Attention)]


class ScaledAttention(Attention):
    """An attention core with a factor on its scores."""

    def __init__(self, scale: float, heads: int = 1, learn_scale: bool = False) -> None:
        super().__init__()
        self.initial_scale = scale
        self.log_scale = nn.Parameter(torch.full((heads, 1, 1), math.log(scale)), learn_scale)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set the factor back to its initial value."""
        self.log_scale.fill_(math.log(self.initial_scale))

    def scale(self) -> Tensor:
        """Factor on ``q k^T`` of each head, ``[H, 1, 1]``.

        One positive number per head does not change the winners by itself. Beside a bias it does;
        dividing the bias by it once, after training, then saves the multiplication.
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
    if not torch.compiler.is_compiling() and bool(allowed.any(-1).all()):
        return p  # a compiled graph holds the next pass in any case, fused
    return torch.nan_to_num(p, nan=0.0)


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` in float32, or as it is in float64: half precision would invent ties of scores."""
    return x if x.dtype == torch.float64 else x.float()


def scale_of(config: Any) -> float:
    """The config's ``attention_scale``; ``levels / sqrt(head width)`` if it is None.

    ``levels`` is the config's, whatever neurons q and k have: with dead zones in their places an
    initial scale of a quarter makes no difference (docs/log.md), and it is learned.
    """
    if config.attention_scale is not None:
        return float(config.attention_scale)
    return float(config.levels / math.sqrt(config.head_width))
