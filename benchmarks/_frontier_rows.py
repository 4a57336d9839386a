"""Rows of the frontier: sizes, kinds of models, and the programs that run them."""

from __future__ import annotations

from typing import Any

from spikeformers.models import DEAD_ZONES

HEAD_WIDTH = 32
"""Of every size, as of the packaged model, so that only width and depth differ: the hard winner of
attention is found by matches among this many values."""
SIZES: dict[str, tuple[int, int]] = {
    "64x3": (64, 3),
    "96x3": (96, 3),
    "128x4": (128, 4),
    "192x5": (192, 5),
    "256x6": (256, 6),
    "384x8": (384, 8),
}
"""Width and layers."""
DENSE = "dense twin"
KINDS: dict[str, dict[str, Any] | None] = {
    DENSE: None,
    "budget 0.35": DEAD_ZONES,
    "budget 0.15": {**DEAD_ZONES, "budget": 0.15},
    "budget 0.15, graded": {"attention": "power-of-two", "budget": 0.15},
}
CLAIMED = "budget 0.15, graded"
"""The kind that the claims are made of: the presets' attention at the smallest budget."""
ROWS = {f"{size}, {kind}": (size, kind) for size in SIZES for kind in KINDS}
TWIN, LLAMA, CTRANSLATE2 = "engine, dense twin, int8", "llama.cpp Q8_0", "CTranslate2 int8"


def spiking_program(kind: str) -> str:
    return f"engine, spiking, {kind}, int8"


def config_of(size: str, kind: str, vocabulary: int, context: int) -> Any:
    """The config of a row's model."""
    from spikeformers.models import build_config, control_of

    width, layers = SIZES[size]
    shape = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // HEAD_WIDTH,
        "max_position_embeddings": context,
    }
    choices = KINDS[kind]
    spiking = build_config(
        "wd-spikingformer-tiny", vocabulary, {**(choices or DEAD_ZONES), **shape}
    )
    return control_of(spiking, "rotary") if choices is None else spiking
