"""All options of SpAD, with their defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from spikeformers.errors import ConfigError, nearest
from spikeformers.training.config_base import ConfigBase, require

TERMS = ("ea", "saa", "sfa", "sta", "hta")


@dataclass(frozen=True)
class SpADConfig(ConfigBase):
    """Weights of the terms, and the choices that the paper (arXiv 2605.13859) leaves open.

    A term of weight 0 is not computed. Raises ``ConfigError`` for a value out of range.
    """

    key_name: ClassVar[str] = "distillation key"

    ea: float = 0.2
    saa: float = 0.1
    sfa: float = 0.1
    sta: float = 0.3
    hta: float = 0.3
    """The five weights are those of a work that cites the paper and reimplements it."""
    tau: float = 2.0
    """Temperature of the soft targets."""

    layer_map: tuple[int, ...] = ()
    """SAA, SFA: the teacher layer (from 1) of each student layer, 0 to leave out a student layer.
    Empty: evenly spaced, ending with the last of both. Open in the paper."""

    saa_rate: float = 1.0
    """r of SAA, 0 for none. Open in the paper: it adds the two parts without a scale."""
    sfa_rate: float = 1.0
    """r of SFA, 0 for none. Open in the paper."""
    rate_steps: int = 4
    """Steps of the LIF that turns teacher values into rates: the paper's larger T."""
    rate_decay: float = 0.9
    """Its decay. Open in the paper."""
    rate_threshold: float = 1.0
    """Its threshold. Open in the paper: both 0.7 and 1 occur."""

    saa_heads: str = "learned"
    """For different numbers of heads: a "learned" linear map over heads, or a "fixed" one that
    averages or repeats neighbouring heads (the learned map starts as this). Open in the paper."""
    sfa_hidden: int = 0
    """Hidden width of SFA's MLP (linear, GELU, linear); 0: the teacher's width. Open in the
    paper."""
    sfa_project_always: bool = True
    """Whether MLP and LayerNorm are used even if the widths are equal; the sources disagree."""
    sfa_normalise_teacher: bool = True
    """Whether H_T is normalised to mean 0 and variance 1 over its width, as F is initially. Open in
    the paper; raw features of large models have values in the thousands, which would dominate the
    loss."""

    def __post_init__(self) -> None:
        self.convert_fields(without=("layer_map",))
        object.__setattr__(self, "layer_map", _layers(self.layer_map))
        for name in (*TERMS, "saa_rate", "sfa_rate", "sfa_hidden"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or greater")
        for name in ("tau", "rate_steps", "rate_threshold"):
            require(getattr(self, name) > 0, name, getattr(self, name), "greater than 0")
        require(0 <= self.rate_decay <= 1, "rate_decay", self.rate_decay, "between 0 and 1")
        require(
            self.saa_heads in ("learned", "fixed"), "saa_heads", self.saa_heads, "learned or fixed"
        )
        if not self.active:
            raise ConfigError(
                f"All weights are 0 ({', '.join(TERMS)}): there is nothing to learn. Give one."
            )

    @property
    def active(self) -> tuple[str, ...]:
        """The terms with a weight, in the order of the loss."""
        return tuple(term for term in TERMS if getattr(self, term) > 0)

    @property
    def weights(self) -> dict[str, float]:
        return {term: getattr(self, term) for term in self.active}


def without(terms: list[str]) -> dict[str, float]:
    """Weight 0 for each of ``terms``; ``ConfigError`` for an unknown one."""
    for term in terms:
        if term not in TERMS:
            raise ConfigError(
                f"Unknown term {term!r}; SpAD has {', '.join(TERMS)}.{nearest(term, TERMS)}"
            )
    return dict.fromkeys(terms, 0.0)


def _layers(value: Any) -> tuple[int, ...]:
    valid = isinstance(value, (list, tuple)) and all(
        isinstance(layer, int) and not isinstance(layer, bool) and layer >= 0 for layer in value
    )
    if not valid:
        raise ConfigError(
            f"layer_map is {value!r}; it must be a list of teacher layers, one per student layer, "
            "as in [3, 6, 9, 12], with 0 for a student layer that is left out."
        )
    return tuple(value)
