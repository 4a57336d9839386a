"""Streaming SFSA against `spikeformers.attention.sfsa` with `spikeformers.neurons.lif`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton", reason="triton is not installed: pip install 'spikeformers[triton]'")

from spikeformers.attention import SFSA, Pairs
from spikeformers.attention._pairs import line_written_out
from spikeformers.kernels.triton.scan import RESETS, SURROGATES
from spikeformers.kernels.triton.sfsa import fired_edges, forward_operator
from spikeformers.neurons import LIF

CHECKS = (
    "test_schema",
    "test_autograd_registration",
    "test_faketensor",
    "test_aot_dispatch_static",
)
GENERATE = (Phase.generate,)  # to shrink a failure would take the interpreter an hour


def membranes_near_threshold(neuron: LIF, current: Tensor) -> bool:
    """Whether the order of a sum decides an edge."""
    carry, near = torch.zeros_like(current[0]), False
    with torch.no_grad():
        for now in current:
            near |= bool(((carry + now - neuron.v_th).abs() < 1e-5).any())
            carry = neuron.step(now, carry)[1]
    return near


@settings(max_examples=4, phases=GENERATE)
@given(
    seed=st.integers(0, 2**20),
    steps=st.sampled_from([1, 2, 3]),
    heads=st.sampled_from([1, 1, 2]),
    queries=st.sampled_from([1, 5, 17]),
    past=st.sampled_from([0, 0, 4]),
    width=st.sampled_from([3, 8, 16]),
    causal=st.booleans(),
    biased=st.booleans(),
    mask_kind=st.sampled_from(["none", "keys", "pairs"]),
    learned=st.booleans(),
    reset=st.sampled_from(sorted(RESETS)),
    surrogate=st.sampled_from(sorted(SURROGATES)),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_output_and_every_gradient_are_the_definitions(
    seed: int, steps: int, heads: int, queries: int, past: int, width: int, causal: bool,
    biased: bool, mask_kind: str, learned: bool, reset: Any, surrogate: str, dtype: torch.dtype,
    device: str, close: Any,
) -> None:  # fmt: skip
    keys = queries + past
    neuron = LIF(0.9, 1.3, reset, surrogate, 2.0, (heads, 1, 1) if learned else None)
    core = SFSA(neuron, 0.7, heads, learn_scale=True)
    for attempt in range(100):
        generator = torch.Generator().manual_seed(seed + attempt)
        q, k, v = (
            (torch.rand(steps, 1, heads, tokens, width, generator=generator) < 0.4).to(dtype)
            for tokens in (queries, keys, keys)
        )
        line = torch.randn(heads, queries + keys - 1, generator=generator) * 0.5
        bias = line_written_out(line, keys) if biased else None
        allowed = Pairs(causal).written_out(queries, keys, torch.device("cpu"))
        mask = None
        if mask_kind != "none":
            shape = (1, keys) if mask_kind == "keys" else (1, queries, keys)
            mask = torch.rand(shape, generator=generator) < 0.7
            allowed = allowed & (mask[:, None, None] if mask_kind == "keys" else mask[:, None])
        if not membranes_near_threshold(neuron, core.scores(q.float(), k.float(), bias) * allowed):
            break
    gy = torch.randn(q.shape, generator=generator).to(dtype)

    inputs = [x.to(device, copy=True).requires_grad_() for x in (q, k, v)]
    scale = core.scale().detach().flatten().to(device).requires_grad_()
    v_th = torch.as_tensor(neuron.v_th).detach().expand(heads, 1, 1).flatten().to(device)
    v_th = v_th.clone().requires_grad_(learned)
    own_line = line.to(device, copy=True).requires_grad_() if biased else None
    y = fired_edges(
        *inputs, scale, v_th, own_line, None if mask is None else mask.to(device), causal=causal,
        decay=0.9, reset=reset, surrogate=surrogate, sharpness=2.0,
    )  # fmt: skip
    y.backward(gy.to(device))

    twins = [x.detach().float().clone().requires_grad_() for x in (q, k, v)]
    twin_line = line.clone().requires_grad_() if biased else None
    bias = None if twin_line is None else line_written_out(twin_line, keys)
    expected = core(*twins, allowed, bias)
    expected.backward(gy.float())
    assert torch.equal(y.float().cpu(), expected.detach().to(dtype).float())
    for got, twin in zip(inputs, twins, strict=True):
        close(got.grad.cpu(), twin.grad, dtype)
    close(scale.grad.cpu() * scale.detach().cpu(), core.log_scale.grad.flatten(), dtype)
    if learned:  # of all pairs, masked ones too: their surrogate is not zero
        gradient = neuron.log_threshold.grad.flatten()
        close(v_th.grad.cpu() * v_th.detach().cpu(), gradient, dtype)
    if own_line is not None:
        close(own_line.grad.cpu(), twin_line.grad, dtype)


def test_the_operator_is_registered_with_fake_tensors_and_a_gradient(device: str) -> None:
    q, k, v = ((torch.rand(2, 1, 1, 3, 4, device=device) < 0.4).float() for _ in range(3))
    ones = torch.ones(1, device=device)
    line = torch.zeros(1, 5, device=device).requires_grad_()
    inputs = [x.requires_grad_() for x in (q, k, v)]
    options = (True, False, 0.9, RESETS["soft"], SURROGATES["arctan"], 2.0)
    torch.library.opcheck(
        forward_operator, (*inputs, ones, ones, line, None, *options), test_utils=CHECKS
    )
