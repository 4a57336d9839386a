"""Attention mechanisms, one a file; masks come before any competition."""

from __future__ import annotations

from spikeformers.attention._base import Attention, ScaledAttention
from spikeformers.attention.a2os2a import A2OS2A, ORDERS
from spikeformers.attention.sfsa import SFSA
from spikeformers.attention.softmax import SoftmaxAttention
from spikeformers.attention.ssa import SSA
from spikeformers.attention.wta import COMPETITIONS, WTA

__all__ = [
    "A2OS2A",
    "COMPETITIONS",
    "ORDERS",
    "SFSA",
    "SSA",
    "WTA",
    "Attention",
    "ScaledAttention",
    "SoftmaxAttention",
]
