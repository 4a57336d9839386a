"""Every choice of SpAD, with its default, in this one place."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from spikeformers.errors import ConfigError, nearest
from spikeformers.training.config import require, typed

TERMS = ("ea", "saa", "sfa", "sta", "hta")


@dataclass(frozen=True)
class SpADConfig:
    """Weights of the terms, and what the paper (arXiv 2605.13859) leaves open.

    A term of weight 0 is not computed. Raises ``ConfigError`` for a value out of range.
    """

    ea: float = 0.2
    saa: float = 0.1
    sfa: float = 0.1
    sta: float = 0.3
    hta: float = 0.3
    """The five weights are those of a work that cites the paper and implements it again."""
    tau: float = 2.0
    """Temperature of the soft targets."""

    layer_map: tuple[int, ...] = ()
    """SAA, SFA: a teacher layer (from 1) for each student layer, 0 to leave that one out. Empty:
    spread evenly, the last to the last. Open in the paper."""

    saa_rate: float = 1.0
    """r of SAA, 0 for none. Open in the paper: it adds the two parts without a scale."""
    sfa_rate: float = 1.0
    """r of SFA, 0 for none. Open in the paper."""
    rate_steps: int = 4
    """Steps of the LIF that turns teacher values into rates: the paper's larger T."""
    rate_decay: float = 0.9
    """Its decay. Open in the paper."""
    rate_threshold: float = 1.0
    """Its threshold. Open in the paper: 0.7 and 1 are both met."""

    saa_heads: str = "learned"
    """Where head counts differ: a "learned" linear map over heads, or a "fixed" one that averages
    or repeats neighbouring heads (the learned one begins there). Open in the paper."""
    sfa_hidden: int = 0
    """Hidden width of SFA's MLP (linear, GELU, linear); 0: the teacher's width. Open in the
    paper."""
    sfa_project_always: bool = True
    """Whether MLP and LayerNorm stand where the widths agree as well; the sources disagree."""
    sfa_normalise_teacher: bool = True
    """Whether H_T has mean 0 and variance 1 over its width, as a new F has. Open in the paper;
    raw features of large models hold values in the thousands, which then are all of the loss."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name != "layer_map":
                value = typed(field.name, str(field.type), getattr(self, field.name))
                object.__setattr__(self, field.name, value)
        object.__setattr__(self, "layer_map", _layers(self.layer_map))
        for name in (*TERMS, "saa_rate", "sfa_rate", "sfa_hidden"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or greater")
        for name in ("tau", "rate_steps", "rate_threshold"):
            require(getattr(self, name) > 0, name, getattr(self, name), "greater than 0")
        require(0 <= self.rate_decay <= 1, "rate_decay", self.rate_decay, "between 0 and 1")
        known = ("learned", "fixed")
        require(self.saa_heads in known, "saa_heads", self.saa_heads, "learned or fixed")
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

    def as_dict(self) -> dict[str, Any]:
        """The values as JSON and YAML can hold them."""
        return dataclasses.asdict(self) | {"layer_map": list(self.layer_map)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SpADConfig:
        """Build from plain values; an unknown key is a ``ConfigError`` that names the nearest."""
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                raise ConfigError(
                    f"Unknown distillation key {key!r}.{nearest(str(key), known)} "
                    f"Known: {', '.join(known)}."
                )
        return cls(**values)


def without(terms: list[str]) -> dict[str, float]:
    """Weight 0 for each of ``terms``; a term that is none is a ``ConfigError``."""
    for term in terms:
        if term not in TERMS:
            raise ConfigError(
                f"Unknown term {term!r}; SpAD has {', '.join(TERMS)}.{nearest(term, TERMS)}"
            )
    return dict.fromkeys(terms, 0.0)


def _layers(value: Any) -> tuple[int, ...]:
    good = isinstance(value, (list, tuple)) and all(
        isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in value
    )
    if not good:
        raise ConfigError(
            f"layer_map is {value!r}; it must be a list of teacher layers, one a student layer, "
            "as in [3, 6, 9, 12], with 0 for a layer left out."
        )
    return tuple(value)
