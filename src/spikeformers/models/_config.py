"""The config that all spiking language models share, and that of the WTA spiking transformer.

Winner-Take-All Spiking Transformer for Language Modeling, https://arxiv.org/abs/2604.11321.
Unspecified by the paper, a field each: where norms stand (``pre_norm``, ``projection_norm``,
``sum_norm``, ``output_norm``), which norm, positions, the surrogates, initialisation, and what the
head reads.
``pre_norm=False, output_norm=True`` is the block as rebuilt from Spikingformer; docs/log.md
explains why the defaults differ.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from spikeformers.attention import ATTENTIONS, COMPETITIONS, ORDERS
from spikeformers.attention.power_of_two import check_digits
from spikeformers.errors import ConfigError
from spikeformers.layers import NORMS, ROLE_NEURONS
from spikeformers.models._auto_map import InstalledCode
from spikeformers.models._checks import at_least_one, between, check_fields, few_steps, one_of
from spikeformers.models._places import all_named, check_places, rows_of
from spikeformers.models.control import TwinPositions, text_twin
from spikeformers.neurons import NEURONS, SURROGATES

POSITIONS = ("learned", "relative", "both", "none")


@strict(accept_kwargs=True)
class SpikingConfig(InstalledCode, PreTrainedConfig):
    """Shape, norms, positions and firing-rate term, which every spiking language model has."""

    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values", "lm_loss", "rate_loss"]
    causal: ClassVar[bool] = True
    spiking: ClassVar[bool] = True

    vocab_size: int = 50257
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int | None = None
    """Hidden width of the MLP; 4 * hidden_size unless given."""
    max_position_embeddings: int = 1024

    steps: int = 1
    """T of the papers: simulation steps S."""
    decay: float = 0.5
    threshold: float = 1.0
    """Threshold of LIF (membrane units) or initial amplitude of T-LIF."""
    surrogate: str = "arctan"
    surrogate_sharpness: float = 2.0

    norm: str = "layer"
    norm_eps: float = 1e-5
    neuron_gain: float = 1.0
    """Initial scale of the norm in front of a neuron: one over its threshold."""
    position: str | None = None
    """"learned" (absolute), "relative" (a bias on the scores), "both" or "none"; "relative" unless
    given."""
    relative_slope: float = 1.0
    """Initial relative bias: ALiBi's slopes times this."""
    spiking_head: bool = True
    """A neuron in front of the language-model head, so that the head is spike-driven too."""
    dropout: float = 0.0
    initializer_range: float = 0.02
    bias: bool = True
    tie_word_embeddings: bool = True
    use_cache: bool = True

    firing_rate_weight: float = 0.05
    """Weight of the firing-rate term of the loss; 0, the papers' silence, switches it off."""
    firing_rate_target: float = 0.1
    """Density (share of non-zeros) above which a neuron layer in the blocks is penalised."""
    firing_rate_targets: dict[str, float] | None = None
    """Targets of single components, by a part of their layers' names: {"mlp.fire_hidden": 0.05,
    "attention": 0.2, "layers.0": 0.3, "head": 0.1}. The head's neuron only counts if named."""

    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        check_fields(self, kwargs)
        if self.intermediate_size is None:
            self.intermediate_size = 4 * self.hidden_size
        if self.position is None:
            self.position = "relative"
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Raise ConfigError for fields from which no model can be built."""
        one_of(self, "norm", NORMS)
        one_of(self, "position", POSITIONS)
        one_of(self, "surrogate", tuple(SURROGATES))
        for key in (
            *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"),
            *("intermediate_size", "max_position_embeddings"),
        ):
            at_least_one(self, key)
        few_steps(self)
        for key in ("surrogate_sharpness", "threshold", "neuron_gain", "initializer_range"):
            between(self, key, 0.0, math.inf)
        between(self, "dropout", -1e-9, 1.0)
        between(self, "decay", -1e-9, 1 + 1e-9)
        for key, value in (self.firing_rate_targets or {}).items():
            if not 0 <= value < 1:
                raise ConfigError(
                    f"firing_rate_targets[{key!r}] must be a density in [0, 1), not {value!r}."
                )
        if "head" in (self.firing_rate_targets or {}) and not self.spiking_head:
            raise ConfigError(
                "firing_rate_targets names 'head', and spiking_head=False puts no neuron there."
            )
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"hidden_size {self.hidden_size} does not divide into "
                f"{self.num_attention_heads} heads."
            )

    def dense_twin(self, positions: TwinPositions | None = None) -> PreTrainedConfig:
        """Config of the dense model of this shape; ``positions`` as of `control_of`."""
        return text_twin(self, positions)

    def card_rows(self) -> dict[str, str]:
        """The rows of a model card; each subclass defines ``neuron`` and ``attention``."""
        config: Any = self
        return {"attention": config.attention, "neuron": f"{config.neuron}, T = {self.steps}"}

    @property
    def head_width(self) -> int:
        """K, the width of one head."""
        return self.hidden_size // self.num_attention_heads


@strict(accept_kwargs=True)
class SpikingformerConfig(SpikingConfig):
    """Every choice of a WTA spiking transformer; a field a choice, its default here only."""

    token_shift: bool = False
    """Half of the spikes that attention and MLP read are those of the token before: a copy, no
    arithmetic. Ours, not the paper's; causal models only."""

    attentions_of_others: ClassVar[tuple[str, ...]] = ("wssa",)
    """Names that are not for this kind of model."""

    attention: str = "cwssa"
    """One of `spikeformers.attention.ATTENTIONS`: "cwssa" (of a masked model "wssa"), "ssa",
    "a2os2a", "softmax", or one of your own (`register_attention`)."""
    attention_options: dict[str, Any] | None = None
    """Options of an attention registered from outside; built-in ones have fields of their own."""
    wta: str = "hard"
    winners: int = 3
    """K of wta="top_k"."""
    weight_digits: int = 2
    """attention="power-of-two": binary digits of a weight, 1 to 4; with 1 it is a power of two,
    with 2 that or 1.5 times one."""
    winner_weight: str = "one"
    """"one" (the paper's K ones per row) or "mean" (1/K)."""
    attention_scale: float | None = None
    """s; levels/sqrt(head width) unless given, 0.125 for SSA. Unspecified by the paper. A2OS2A has
    none."""
    learn_attention_scale: bool = True
    """Learn s, one number per head. It is the surrogate's inverse temperature as well."""
    surrogate_temperature: float = 1.0
    """tau of the softmax in the backward pass of hard and top-K. Unspecified by the paper."""

    attention_order: str = "scores"
    """A2OS2A: "scores", (Q K^T) V, or "state", Q (K^T V), whose cache does not grow."""
    query_neuron: str = "binary"
    """A2OS2A: the values of the projection of Q: "binary", "relu" or "ternary"; with hard reset."""
    key_neuron: str = "relu"
    value_neuron: str = "ternary"
    ternary_decay: float = 0.25
    """A2OS2A: decay of its ternary neuron, whose threshold is threshold_ratio * threshold."""

    neuron: str = "ni-lif"
    """One of `spikeformers.neurons.NEURONS`: "ni-lif", "i-lif", "lif", "t-lif", or one of your own
    (`register_neuron`)."""
    neuron_options: dict[str, Any] | None = None
    """Options of a neuron registered from outside; built-in neurons have fields of their own."""
    levels: int = 16
    """D of "T x D": the largest count an integer neuron emits in one step; the paper's is 4.
    T is ``steps``."""
    threshold_ratio: float = 0.5
    amplitude: str = "learnable"
    reset: str = "soft"
    integer_gradient: str = "rectangular"
    """NI-LIF and I-LIF: "rectangular" (the source's) or "sigmoid" (a softplus' derivative)."""
    surrogate_margin: float = 0.0
    """Rectangular integer gradient: it is one on [-margin, levels + margin]."""
    surrogate_leak: float = 0.0
    """Rectangular integer gradient: its value beyond that window."""

    signed: bool = True
    """Neuron "dead-zone": counts of either sign."""
    step_size: float = 0.25
    """Neuron "dead-zone": the change of a membrane potential that is one count."""
    dead_zone: float = 0.3
    """Neuron "dead-zone": the initial threshold below which it is silent."""
    gain: float | None = None
    """Neuron "dead-zone": initial value of a learned factor on its currents. Unless given there is
    none; with projection_norm=False, behind q, k, v and the MLP's first map, it is one over the
    size that currents have at the start."""
    budget: float | None = None
    """Share of weight bytes read per token that learned thresholds hold the model to, the head's
    included. It takes the place of their targets; queries and keys, which read no weights, keep
    theirs."""
    budget_weight: float = 1.0
    """Weight of the term that holds the budget."""
    neurons: dict[str, dict[str, Any]] | None = None
    """Neurons of single places, by the fields that differ there: {"in": {"neuron": "dead-zone",
    "levels": 64, "target": 0.25}}. Places: in, mlp_in, query, key, value, out, hidden, head; a
    target there takes the place of firing_rate_target."""

    pre_norm: bool = True
    projection_norm: bool = True
    sum_norm: bool = True
    """Attention that sums rows of V: a norm in front of the neuron before the output map."""
    output_norm: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        # Scores that are multiplied with V are not a competition that a bias could influence.
        kind = ATTENTIONS.get(self.attention)
        if self.position is None and kind is not None and not kind.takes_bias:
            self.position = "learned"
        super().__post_init__(**kwargs)

    def card_rows(self) -> dict[str, str]:
        common = f"{self.neuron}, {self.steps}x{self.levels} (T x D)"
        competition = f", {self.wta}" if ATTENTIONS[self.attention].has_competition else ""
        return {
            "attention": f"{self.attention}{competition}",
            "neuron": "by place" if self.has_neurons_by_place else common,
            **self.neuron_rows(),
        }

    @property
    def has_neurons_by_place(self) -> bool:
        """Whether ``neurons`` names every place, so that the other fields describe no neuron."""
        return all_named(self)

    def neuron_rows(self) -> dict[str, str]:
        """For people: the neurons of places that differ, in words."""
        return rows_of(self)

    def validate_architecture(self) -> None:
        """Raise ConfigError for fields from which no model can be built."""
        allowed = tuple(name for name in ATTENTIONS if name not in self.attentions_of_others)
        one_of(self, "attention", allowed)
        one_of(self, "wta", COMPETITIONS)
        NEURONS.get_or_refuse(self.neuron, "neuron")
        one_of(self, "winner_weight", ("one", "mean"))
        one_of(self, "integer_gradient", ("rectangular", "sigmoid"))
        super().validate_architecture()
        for key in ("query_neuron", "key_neuron", "value_neuron"):
            one_of(self, key, ROLE_NEURONS)
        one_of(self, "attention_order", ORDERS)
        between(self, "ternary_decay", -1e-9, 1 + 1e-9)
        if not ATTENTIONS[self.attention].takes_bias and self.position in ("relative", "both"):
            raise ConfigError(
                f"attention={self.attention!r} multiplies its scores with V, so "
                f"position={self.position!r} would add reals to them; use position='learned' or "
                "'none'."
            )
        if self.token_shift and not self.causal:
            raise ConfigError(
                "token_shift=True reads the token before, which a masked model sees anyway; it is "
                "for causal models."
            )
        at_least_one(self, "levels")
        at_least_one(self, "winners")
        check_digits(self.weight_digits)
        if self.attention_scale is not None:
            between(self, "attention_scale", 0.0, math.inf)
        between(self, "surrogate_temperature", 0.0, math.inf)
        between(self, "step_size", 0.0, math.inf)
        between(self, "dead_zone", -1e-9, math.inf)
        if self.budget is not None:
            between(self, "budget", 0.0, 1.0)
        between(self, "budget_weight", 0.0, math.inf)
        check_places(self)
