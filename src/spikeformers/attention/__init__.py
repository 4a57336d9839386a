"""Attention mechanisms, one per file; masks are applied before any competition."""

from __future__ import annotations

from spikeformers.attention._base import Attention, ScaledAttention, cores_of
from spikeformers.attention._pairs import Pairs
from spikeformers.attention.a2os2a import A2OS2A, ORDERS
from spikeformers.attention.power_of_two import PowerOfTwoAttention
from spikeformers.attention.registry import ATTENTIONS, register_attention
from spikeformers.attention.sfsa import SFSA
from spikeformers.attention.softmax import SoftmaxAttention
from spikeformers.attention.ssa import SSA
from spikeformers.attention.wta import COMPETITIONS, WTA

__all__ = [
    "A2OS2A",
    "ATTENTIONS",
    "COMPETITIONS",
    "ORDERS",
    "SFSA",
    "SSA",
    "WTA",
    "Attention",
    "Pairs",
    "PowerOfTwoAttention",
    "ScaledAttention",
    "SoftmaxAttention",
    "cores_of",
    "register_attention",
]
