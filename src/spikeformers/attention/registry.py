"""Attention by the name that a config gives; a new one of ours is one line here."""

from __future__ import annotations

from spikeformers.attention._base import Attention
from spikeformers.attention.a2os2a import A2OS2A
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
    {"cwssa": WTA, "wssa": WTA, "ssa": SSA, "a2os2a": A2OS2A, "softmax": SoftmaxAttention},
    _check,
)
"""CWSSA and WSSA are the winner-take-all of causal and of masked models: one competition."""


def register_attention(name: str, kind: type[Attention]) -> type[Attention]:
    """Let configs name an attention of your own: ``attention="mine"``.

    ``kind`` derives from `Attention`, whose attributes say what energy, audit, reports and the
    cache have to know; ``from_config`` may read options of its own from
    ``config.attention_options``. Raises ConfigError for a name of ours or another class.
    """
    return ATTENTIONS.register(name, kind)
