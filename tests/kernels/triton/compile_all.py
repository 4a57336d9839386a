"""Compile every kernel for a compute capability, and print its bytes of shared memory.

    python compile_all.py 90

Operands in bfloat16 and float32, heads of 64 and 128, all options on: the largest of each kernel.
"""

from __future__ import annotations

import os
import sys
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from spikeformers.kernels.triton import _sfsa_gradients as sfsa_gradients
from spikeformers.kernels.triton import _softmax_gradients as softmax_gradients
from spikeformers.kernels.triton import a2os2a, graded, norm_fire, scan, sfsa, wta
from spikeformers.kernels.triton._launch import Tile

OPERANDS = {"Q", "K", "V", "Y", "GY", "GQ", "GK", "GV", "A", "B", "C", "OUT", "X", "G", "GX"}
OPERANDS |= {"SPIKES", "CURRENT", "GI"}
REALS = {"unit", "temperature", "weight", "eps", "levels", "decay", "margin", "leak", "sharpness"}
REALS |= {"ratio"}


def shared_memory(kernel: Any, kind: str, constants: dict[str, Any], tile: Tile, cc: int) -> int:
    """Bytes; raises if the kernel does not compile."""
    types = {}
    for name in kernel.arg_names:
        if name in constants:
            types[name] = "constexpr"
        elif name in OPERANDS:
            types[name] = f"*{kind}"
        elif name.isupper():
            types[name] = {"MASK": "*u8", "INDEX": "*i32"}.get(name, "*fp32")
        else:
            types[name] = "fp32" if name in REALS else "i32"
    places = {name: (place,) for place, name in enumerate(kernel.arg_names)}
    aligned = {
        places[name]: [["tt.divisibility", 16]]
        for name, kind_ in types.items()
        if kind_.startswith("*")
    }
    source = ASTSource(kernel, types, {places[n]: v for n, v in constants.items()}, aligned)
    options = {"num_warps": tile.warps, "num_stages": tile.stages, "enable_fp_fusion": False}
    compiled = triton.compile(source, target=GPUTarget("cuda", cc, 32), options=options)
    assert compiled.asm["cubin"]
    return int(compiled.metadata.shared)


def attention(kind: str, width: int) -> list[tuple[Any, dict[str, Any], Tile]]:
    """The kernels over pairs."""
    half = kind == "bf16"
    forward = (wta.FORWARD if half else softmax_gradients.FULL)[width]
    back = (softmax_gradients.BACKWARD if half else softmax_gradients.FULL)[width]
    edges = (sfsa_gradients.TILES if half else sfsa_gradients.FULL)[width]
    pairs = {"MASKED": 2, "CAUSAL": True, "WIDE": False, "BK": width}
    biased = {**pairs, "BIASED": True}
    lif = {"SLOTS": 4, "RESET": 2}
    learned = {**biased, **lif, "KIND": 2, "LEARNED": True}

    def tiles(tile: Tile) -> dict[str, int]:
        return {"BT": tile.rows, "BJ": tile.columns}

    top = {**biased, "UNIT": True, "SURROGATE": True, **tiles(forward)}
    grads = {**biased, "UNIT": True, **tiles(back)}
    powers = {"DIGITS": 4, "FURTHEST": 8, "SILENT": 60}
    none = dict.fromkeys(powers, 0)
    return [
        (wta._forward, {**top, "W": 1, "SLOTS": 1}, forward),
        (wta._forward, {**top, "W": 8, "SLOTS": 8}, forward),
        (softmax_gradients._backward_queries, grads, back),
        (graded._forward, {**top, **powers}, forward),
        (softmax_gradients._backward_keys, {**grads, **none, "W": 1}, back),
        (softmax_gradients._backward_keys, {**grads, **powers, "W": 0}, back),
        (softmax_gradients._backward_line, {**pairs, "UNIT": True, "SIZE": back.columns}, back),
        (sfsa._forward, {**biased, **lif, **tiles(edges)}, edges),
        (sfsa_gradients._backward_queries, {**learned, **tiles(edges)}, edges),
        (sfsa_gradients._backward_keys, {**learned, **tiles(edges)}, edges),
        (sfsa_gradients._backward_line, {**pairs, **lif, "KIND": 2, "SIZE": edges.columns}, edges),
        (a2os2a._gains, {"CHUNK": 64, "BK": width, "WIDE": False}, Tile(64, 64, 8, 3)),
        (
            a2os2a._chunk,
            {"AFTER": True, "TURNED": True, "CHUNK": 64, "BK": width, "WIDE": False},
            Tile(64, 64, 8, 3),
        ),
    ]


def rows() -> list[tuple[Any, dict[str, Any], Tile]]:
    """The kernels over rows and neurons."""
    norm = {"NORM": 2, "SHIFTED": True, "KEEP": True, "BD": 2048}
    block, plain = {"BLOCK": 1024}, Tile(1, 1, 8, 3)
    both = {"SIGMOID": True, "SUMMED": True}
    return [
        (norm_fire._forward, norm, plain),
        (norm_fire._backward, {**norm, **both}, plain),
        (scan._lif, {"EACH": True, "RESET": 2, **block}, plain),
        (scan._lif_backward, {"EACH": False, "RESET": 2, "KIND": 2, **block}, plain),
        (scan._tlif, {"HARD": True, **block}, plain),
        (scan._tlif_backward, {"HARD": True, **block}, plain),
    ]


def main() -> None:
    capability = int(sys.argv[1])
    for kind, width in (("bf16", 64), ("bf16", 128), ("fp32", 64)):
        kernels = attention(kind, width) + (rows() if width == 64 else [])
        for kernel, constants, tile in kernels:
            size = shared_memory(kernel, kind, constants, tile, capability)
            print(kernel.__name__, f"{kind},{width}", size)


if __name__ == "__main__":
    main()
