"""Kernels for accelerators, in Triton: training and long inputs without a matrix of T x J.

    wta        winner-take-all attention, hard and top-K, streaming
    graded     winners graded by powers of two, streaming
    norm_fire  norm and integer neuron in one pass, with the sums of the rate term
    scan       LIF, ternary LIF and IF over S steps
    sfsa       softmax-free attention of edges that fire, streaming
    a2os2a     addition-only attention, causal, by chunks

``spikeformers.kernels.choose(device=...)`` says whether they run, and why. Each is an operator of
``torch.library`` with an implementation for fake tensors and a gradient, so ``torch.compile``
keeps it as one node; every file names the PyTorch code that defines it. They compute in float32;
products of operands in half precision are accumulated in float32.

Triton is imported when the first kernel is, never before: the package works without it. On a CPU
they run in Triton's interpreter, for tests (``TRITON_INTERPRET=1`` before Triton is imported).
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from spikeformers.errors import EngineUnavailable
from spikeformers.kernels import Choice, choose

EXTRA = "pip install 'spikeformers[triton]' (Linux on x86-64; CUDA builds of torch bring it)"
OLDEST_CAPABILITY = (8, 0)
TYPES = (torch.float32, torch.bfloat16, torch.float16)
MOST_WINNERS = 8
"""Winners per query that top-K attention streams."""
MOST_STEPS = 8
"""Simulation steps that SFSA streams."""
WIDEST = {"wta": 256, "graded": 256, "sfsa": 128, "a2os2a": 128, "norm_fire": 16384}
"""Widest head, or row, that a kernel holds in registers."""
_suspended = 0


@contextmanager
def suspended() -> Iterator[None]:
    """PyTorch's own kernels inside the ``with`` block, whatever was chosen.

    For whoever watches single operations, such as a count of them.
    """
    global _suspended
    _suspended += 1
    try:
        yield
    finally:
        _suspended -= 1


def refusal(device: str) -> str:
    """Why Triton's kernels cannot run on a ``device`` (a torch device type); "" if they can."""
    if importlib.util.find_spec("triton") is None:
        return f"triton is not installed: {EXTRA}"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return ""
    if device != "cuda":
        return (
            "Triton compiles for GPUs; on a CPU it runs in its interpreter, for tests: set "
            "TRITON_INTERPRET=1 before Triton is imported"
        )
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    capability = torch.cuda.get_device_capability()
    if torch.version.hip is None and capability < OLDEST_CAPABILITY:
        return f"compute capability {capability[0]}.{capability[1]} is below 8.0"
    return ""


def type_refusal(x: torch.Tensor) -> str:
    """Why the kernels do not take tensors of the type of ``x``; "" if they do."""
    if x.dtype in TYPES:
        return ""
    return f"the kernels compute in float32 or half precision, not in {x.dtype}"


def runs(device: str, unsupported: str = "") -> bool:
    """Whether `choose` takes Triton for tensors on ``device``; see there for ``unsupported``."""
    return _suspended == 0 and _runs(device, unsupported)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _runs(device: str, unsupported: str) -> bool:
    return choose(device=device, unsupported=unsupported).name == "triton"


__all__ = [
    "MOST_STEPS",
    "MOST_WINNERS",
    "WIDEST",
    "Choice",
    "EngineUnavailable",
    "choose",
    "refusal",
    "runs",
    "suspended",
    "type_refusal",
]
