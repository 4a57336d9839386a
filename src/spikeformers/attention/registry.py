"""Attention cores by the name that a config gives; a new built-in core is one line here."""

from __future__ import annotations

from spikeformers.attention._base import Attention
from spikeformers.attention.a2os2a import A2OS2A
from spikeformers.attention.power_of_two import PowerOfTwoAttention
from spikeformers.attention.softmax import SoftmaxAttention
from spikeformers.attention.ssa import SSA
from spikeformers.attention.wta import WTA
from spikeformers.errors import ConfigError
from spikeformers.registry import Registry


def _check(name: str, kind: type[Attention]) -> None:
    if not (isinstance(kind, type) and issubclass(kind, Attention)):
        raise ConfigError(
            f"attention {name!r} must be a class derived from spikeformers.attention.Attention, "
            f"not {kind!r}."
        )


ATTENTIONS: Registry[type[Attention]] = Registry(
    "attention",
    "spikeformers.attentions",
    {
        **{"cwssa": WTA, "wssa": WTA, "ssa": SSA, "a2os2a": A2OS2A},
        **{"softmax": SoftmaxAttention, "power-of-two": PowerOfTwoAttention},
    },
    _check,
)
"""CWSSA and WSSA are the winner-take-all attention of causal and masked models: the same class."""


def register_attention(name: str, kind: type[Attention]) -> type[Attention]:
    """Let configs name an attention of your own: ``attention="mine"``.

    ``kind`` derives from `Attention`, whose attributes state what energy, audit, reports and the
    cache have to know; its ``from_config`` may read further options from
    ``config.attention_options``. Raises ConfigError for a built-in name, or for a class that does
    not derive from `Attention`.
    """
    return ATTENTIONS.register(name, kind)
