"""A decode step allocates nothing once the engine is warm.

Counted in a process of its own, where the C++ library's operator new is replaced by one that counts
(`count_allocations.cpp`). A page of the cache, every 64 tokens, is what a sequence grows by.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from spikeformers.engine import write
from spikeformers.export import pack
from spikeformers.models import WDSpikingformerConfig, build_model, control_of

pytest.importorskip("spikeformers.kernels._native")

WARM, PAGE = 20, 64
COUNT = """
import ctypes, json, sys, threading
from spikeformers.engine import load
made = ctypes.CDLL(None).allocations
made.restype = ctypes.c_long
every = {}
def count(file):
    before = made()
    engine = load(file, threads=1)
    text = engine.sequence()
    while text.tokens < 20:
        engine.advance(text, text.tokens)
    warm = made()
    while text.tokens < 64:
        engine.advance(text, text.tokens % 50)
    steps = made()
    engine.advance(text, 1)
    every[file] = [warm - before, steps - warm, made() - steps]
for file in sys.argv[1:]:  # each in a thread of its own, whose memory no other has made warm
    thread = threading.Thread(target=count, args=[file])
    thread.start()
    thread.join()
print(json.dumps(every))
"""
SIGNED = {"neuron": "dead-zone", "levels": 64, "step_size": 0.125, "dead_zone": 0.3}
SPIKING: dict[str, dict[str, Any]] = {
    "ni-lif": {},
    "lif, 2 steps, top-3": {"neuron": "lif", "steps": 2, "threshold": 0.5, "wta": "top_k"},
    "t-lif, sparsemax": {"neuron": "t-lif", "threshold": 0.75, "wta": "sparsemax"},
    "dead-zone, shift": SIGNED | {"token_shift": True},
    "dead-zone, softmax, real head": SIGNED | {"attention": "softmax", "spiking_head": False},
    "dead-zone, ssa": SIGNED | {"attention": "ssa"},
}
WEIGHTS = dict.fromkeys(("ni-lif", "dense twin", "converted-token"), ("int8", "int4", "fp32"))
OF_A_FIXED_SIZE = ("dead-zone, ssa, int8", "converted-ssa, int8")
OTHERS = ("bispikclm", "converted-kept", "converted-cwssa", "converted-ssa", "converted-token")


def counted(files: list[str], folder: Path) -> dict[str, list[int]]:
    """Allocations of each file: until it is warm, of steps, and of one that begins a page."""
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs a C++ compiler and Linux")
    library = folder / "count.so"
    source = Path(__file__).parent / "count_allocations.cpp"
    flags = ["-std=c++20", "-O1", "-shared", "-fPIC", "-o", str(library), str(source)]
    subprocess.run([compiler, *flags], check=True)
    command = [sys.executable, "-c", COUNT, *files]
    environment = os.environ | {"LD_PRELOAD": str(library)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    every: dict[str, list[int]] = json.loads(done.stdout)
    return every


def test_a_step_of_any_architecture_allocates_nothing(
    make_model: Callable[..., Any], make_other: Callable[..., Any], tmp_path: Path
) -> None:
    models = {name: make_model(1, **options) for name, options in SPIKING.items()}
    models |= {kind: make_other(kind) for kind in OTHERS}
    torch.manual_seed(0)
    shape = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = WDSpikingformerConfig(**shape, max_position_embeddings=96)  # type: ignore[arg-type]
    models["dense twin"] = build_model(control_of(config)).eval()
    files: dict[str, str] = {}
    for name, model in models.items():
        for weights in WEIGHTS.get(name, ("int8",)):
            file = tmp_path / f"{len(files)}.engine"
            write(pack(model, None, weights), file)
            files[str(file)] = f"{name}, {weights}"
    every = counted(list(files), tmp_path)
    assert {files[file]: steps for file, (_, steps, _) in every.items() if steps} == {}
    for name, (warm, _, page) in every.items():
        assert warm > 0, files[name]  # or else nothing is counted
        assert (page > 0) == (files[name] not in OF_A_FIXED_SIZE), files[name]
