"""The kernels' part of ``gpu.py``: correctness, time and memory beside PyTorch's own, and SDPA."""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spikeformers.attention import A2OS2A, SFSA, WTA, Attention, Pairs
from spikeformers.kernels import VARIABLE
from spikeformers.layers import Fire
from spikeformers.neurons import LIF, NILIF, TLIF

Run = Callable[[], Any]


@dataclass(frozen=True)
class Sizes:
    """What is measured; ``toy`` is for a dry run through Triton's interpreter."""

    tokens: tuple[int, ...] = (512, 1024, 2048, 4096, 8192, 16384, 32768)
    heads: int = 16
    width: int = 64
    rows: int = 8192
    dense: int = 2048
    steps: int = 4
    odd: tuple[int, ...] = (33, 200)
    seconds: float = 0.6


TOY = Sizes((17, 24), 1, 8, 2, 16, 2, (5, 17), 0.0)


@contextmanager
def path(name: str) -> Iterator[None]:
    """Kernels by ``triton`` or ``torch`` inside the ``with`` block."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = name
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


def measure(run: Run, device: str, seconds: float) -> dict[str, float] | None:
    """Median milliseconds, and MB allocated at the peak above the start; None without memory."""
    try:
        run()
        if device != "cuda":
            start = time.perf_counter()
            run()
            return {"ms": 1e3 * (time.perf_counter() - start), "mb": 0.0}
        torch.cuda.synchronize()
        gc.collect()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        times: list[float] = []
        end = time.perf_counter() + seconds
        while len(times) < 3 or (time.perf_counter() < end and len(times) < 50):
            marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            marks[0].record()
            run()
            marks[1].record()
            torch.cuda.synchronize()
            times.append(marks[0].elapsed_time(marks[1]))
        peak = torch.cuda.max_memory_allocated() - before
        return {"ms": statistics.median(times), "mb": peak / 2**20}
    except torch.OutOfMemoryError:
        return None
    finally:
        if device == "cuda":
            torch.cuda.empty_cache()


def both_ways(run: Callable[..., Tensor], *inputs: Tensor) -> Run:
    """Forward and backward of ``run``, with gradients of ``inputs`` that want them.

    The gradient that arrives is random and the same each time.
    """
    arriving: list[Tensor] = []

    def once() -> list[Tensor]:
        for x in inputs:
            x.grad = None
        y = run(*inputs)
        if not arriving:
            arriving.append(torch.randn_like(y))
        y.backward(arriving[0])
        return [y.detach(), *(x.grad for x in inputs if x.grad is not None)]

    return once


def spikes(*shape: int, device: str, levels: int = 4) -> Tensor:
    return (torch.randint(0, levels + 1, shape, device=device) / levels).requires_grad_()


# --- correctness ----------------------------------------------------------------------------------


def _cores(heads: int) -> dict[str, Attention]:
    return {
        "wta, hard": WTA(0.125, heads=heads, learn_scale=True),
        "wta, top-3": WTA(0.125, "top_k", 3, heads=heads, learn_scale=True),
        "wta, top-8": WTA(0.125, "top_k", 8, heads=heads),
        "sfsa": SFSA(LIF(0.9, 1.3, "delayed"), heads=heads, learn_scale=True),
        "sfsa, learned threshold": SFSA(LIF(0.9, 1.3, "soft", "sigmoid", 2.0, (heads, 1, 1))),
        "a2os2a": A2OS2A("state"),
    }


def _core_case(core: Attention, sizes: Sizes, tokens: int, half: bool, device: str) -> Run:
    # Binary operands for SFSA; currents away from the threshold 1.3 since its scores are integers.
    levels = 4 if isinstance(core, WTA) else 1
    shape = (sizes.steps, 2, sizes.heads, tokens, sizes.width)
    q, k, v = (spikes(*shape, device=device, levels=levels) for _ in range(3))
    columns = torch.ones(2, tokens, dtype=torch.bool, device=device)
    columns[0, : tokens // 4] = False
    line = None
    if core.takes_bias:  # quarters, so that scores and membranes are exact
        line = torch.randint(-8, 1, (sizes.heads, 2 * tokens - 1), device=device) / 4
        line.requires_grad_()
    core.exact_in_half = True

    def run(*_: Tensor) -> Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=half):
            return core(q, k, v, Pairs(True, columns), line).float()

    # The scale's gradient is a sum that cancels: half precision leaves little of it to compare.
    scales = [] if half else list(core.parameters())
    return both_ways(run, q, k, v, *([] if line is None else [line]), *scales)


def _fire_case(neuron: Any, sizes: Sizes, norm: nn.Module, device: str) -> Run:
    x = torch.randn(sizes.steps, 2, sizes.odd[0], sizes.dense, device=device).requires_grad_()
    fire = Fire(neuron, norm).to(device)
    return both_ways(lambda *_: fire(x), x, *fire.parameters())


def _error(results: list[Tensor], twins: list[Tensor]) -> float:
    """The largest difference, relative to each tensor's largest value; NaN is infinite."""
    worst = 0.0
    for got, twin in zip(results, twins, strict=True):
        error = float(
            (got.float() - twin.float()).abs().max() / twin.float().abs().max().clamp_min(1e-6)
        )
        worst = max(worst, error if error == error else float("inf"))
    return worst


def correctness(sizes: Sizes, device: str, shard: int, shards: int) -> list[dict[str, Any]]:
    """Largest relative differences from PyTorch's kernels, of the output and of every gradient.

    Of every ``shards``-th case.
    """
    torch.manual_seed(0)
    cases: dict[str, tuple[Run, float]] = {}
    for name, core in _cores(sizes.heads).items():
        core.to(device)
        for tokens in sizes.odd:
            cases[f"{name}, T={tokens}, float32"] = (
                _core_case(core, sizes, tokens, False, device),
                1e-3,
            )
        if "threshold" not in name:
            cases[f"{name}, T={sizes.odd[1]}, bfloat16"] = (
                _core_case(core, sizes, sizes.odd[1], True, device),
                5e-2,
            )
    for name, neuron in (
        ("lif, soft", LIF(0.7, 0.9)),
        ("lif, hard", LIF(0.7, 0.9, "hard")),
        ("if", LIF(1.0, 0.9)),
        ("t-lif", TLIF(0.7)),
    ):
        cases[name] = (_fire_case(neuron, sizes, nn.Identity(), device), 1e-3)
    for name, norm in (("layer", nn.LayerNorm(sizes.dense)), ("rms", nn.RMSNorm(sizes.dense))):
        cases[f"norm_fire, {name}"] = (_fire_case(NILIF(), sizes, norm, device), 1e-3)
    rows = []
    for name, (run, tolerance) in list(cases.items())[shard::shards]:
        with path("torch"):
            twins = run()
        with path("triton"):
            results = run()
        # A norm's last bit decides a count now and then: compare what all but few values say.
        differing = float((results[0] != twins[0]).float().mean())
        unlike = differing > 0 and name.startswith("norm")
        error = 0.0 if unlike else _error(results, twins)
        passed = error <= tolerance and differing < (1e-4 if tolerance < 1e-2 else 1.0)
        rows.append({"kernel": name, "error": error, "differing": differing, "passed": passed})
    return rows


# --- time and memory ------------------------------------------------------------------------------


def attention(sizes: Sizes, device: str) -> Iterator[dict[str, Any]]:
    """Forward and backward of each attention by T, in bfloat16, beside its naive form and SDPA."""
    kinds: dict[str, Attention] = {
        "wta": WTA(0.125, heads=sizes.heads),
        "wta, top-3": WTA(0.125, "top_k", 3, heads=sizes.heads),
        "sfsa": SFSA(LIF(0.9, 1.3, "delayed"), heads=sizes.heads),
        "a2os2a": A2OS2A("scores"),
    }
    lost: set[str] = set()  # naive forms that a shorter text has left without memory
    for tokens in sizes.tokens:
        batch = max(1, min(8192, sizes.tokens[-1]) // tokens)
        half = torch.bfloat16
        shape = (batch, sizes.heads, tokens, sizes.width)
        q, k, v = (torch.randn(shape, device=device, dtype=half).requires_grad_() for _ in range(3))
        dense = both_ways(lambda *x: F.scaled_dot_product_attention(*x, is_causal=True), q, k, v)
        row: dict[str, Any] = {"tokens": tokens, "batch": batch}
        row["sdpa"] = measure(dense, device, sizes.seconds)
        del q, k, v, dense
        for name, core in kinds.items():
            core.to(device).exact_in_half = True
            steps = sizes.steps if name == "sfsa" else 1
            levels = 4 if name.startswith("wta") else 1
            operands = [spikes(steps, *shape, device=device, levels=levels) for _ in range(3)]
            line = torch.randn(sizes.heads, 2 * tokens - 1, device=device).requires_grad_()

            def run(*x: Tensor, core: Attention = core, line: Tensor | None = None) -> Tensor:
                with torch.autocast(device, torch.bfloat16):
                    return core(*x[:3], Pairs(True), line)

            with path("triton"):
                row[name] = measure(both_ways(run, *operands), device, sizes.seconds)
                if name == "wta":
                    biased = both_ways(lambda *x, line=line: run(*x, line=line), *operands, line)
                    row["wta, relative bias"] = measure(biased, device, sizes.seconds)
            with path("torch"):
                naive = None
                if name not in lost:
                    naive = measure(both_ways(run, *operands), device, sizes.seconds)
                if naive is None:
                    lost.add(name)
                row[f"{name}, naive"] = naive
            del operands, line
        yield row


def elementwise(sizes: Sizes, device: str) -> list[dict[str, Any]]:
    """Forward and backward of neurons, and of a norm with one, beside PyTorch's."""
    rows = []
    for name, neuron, norm, steps in (
        ("norm_fire", NILIF(), nn.LayerNorm(sizes.dense), 1),
        ("norm_fire, S steps", NILIF(), nn.LayerNorm(sizes.dense), sizes.steps),
        ("lif", LIF(), nn.Identity(), sizes.steps),
        ("t-lif", TLIF(), nn.Identity(), sizes.steps),
    ):
        x = torch.randn(steps, 1, sizes.rows, sizes.dense, device=device).requires_grad_()
        fire = Fire(neuron, norm).to(device)
        run = both_ways(lambda *_, fire=fire, x=x: fire(x), x, *fire.parameters())
        row: dict[str, Any] = {"kernel": name, "shape": list(x.shape)}
        for kind in ("triton", "torch"):
            with path(kind):
                row[kind] = measure(run, device, sizes.seconds)
        rows.append(row)
    return rows
