"""LIF, ternary LIF and IF over S steps against the neurons' own files."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

pytest.importorskip("triton", reason="triton is not installed: pip install 'spikeformers[triton]'")

from spikeformers.kernels.triton.scan import (
    BLOCK,
    lif,
    lif_operator,
    tlif,
    tlif_operator,
)
from spikeformers.neurons import LIF, SURROGATES, TLIF
from spikeformers.neurons._base import Neuron

dtypes = st.sampled_from([torch.float32, torch.float32, torch.bfloat16])

CHECKS = (
    "test_schema",
    "test_autograd_registration",
    "test_faketensor",
    "test_aot_dispatch_static",
)
GENERATE = (Phase.generate,)  # to shrink a failure would take the interpreter an hour


def membranes(neuron: Neuron, current: torch.Tensor) -> torch.Tensor:
    """U of every step, by the specification."""
    carry, steps = torch.zeros_like(current[0]), []
    for now in current:
        steps.append(carry + now)
        carry = neuron.step(now, carry)[1]
    return torch.stack(steps)


@settings(max_examples=12, phases=GENERATE)
@given(
    seed=st.integers(0, 2**31 - 1),
    steps=st.integers(1, 4),
    size=st.sampled_from([1, 50, BLOCK + 3]),
    reset=st.sampled_from(["soft", "hard", "delayed"]),
    surrogate=st.sampled_from(sorted(SURROGATES)),
    decay=st.sampled_from([0.5, 0.9, 1.0]),
    threshold=st.sampled_from(["fixed", "one", "each"]),
    dtype=dtypes,
)
def test_lif_has_the_definitions_spikes_membranes_and_gradients(
    seed: int, steps: int, size: int, reset: Any, surrogate: str, decay: float, threshold: str,
    dtype: torch.dtype, device: str, close: Any,
) -> None:  # fmt: skip
    """Decay 1 is IF."""
    shape = {"fixed": None, "one": (1,), "each": (2, 1)}[threshold]
    neuron = LIF(decay, 0.9, reset, surrogate, 2.0, shape)
    generator = torch.Generator().manual_seed(seed)
    current = (torch.randn(steps, 2, size, generator=generator) * 1.5).to(dtype)
    gradient = torch.randn(current.shape, generator=generator).to(dtype)
    own = None if shape is None else neuron.v_th.detach().to(device).requires_grad_()
    x = current.to(device, copy=True).requires_grad_()
    spikes, u = lif(x, 0.9 if own is None else own, decay, reset, surrogate, 2.0)
    spikes.backward(gradient.to(device))

    twin = current.float().clone().requires_grad_()
    expected = neuron.run(twin)
    expected.backward(gradient.float())
    assert torch.equal(spikes.float().cpu(), expected)
    assert torch.equal(u.cpu(), membranes(neuron, twin.detach()).detach())
    close(x.grad.cpu(), twin.grad, dtype)
    if own is not None:  # d/d log V_th = V_th d/d V_th
        close((own.grad.cpu() * neuron.v_th.detach()), neuron.log_threshold.grad, dtype)


@settings(max_examples=6, phases=GENERATE)
@given(
    seed=st.integers(0, 2**31 - 1),
    steps=st.integers(1, 4),
    size=st.sampled_from([1, 50, BLOCK + 3]),
    reset=st.sampled_from(["soft", "hard"]),
    dtype=dtypes,
)
def test_ternary_lif_has_the_definitions_spikes_membranes_and_gradients(
    seed: int, steps: int, size: int, reset: Any, dtype: torch.dtype, device: str, close: Any
) -> None:
    neuron = TLIF(0.7, 0.5, reset, initial_amplitude=0.8)
    generator = torch.Generator().manual_seed(seed)
    current = (torch.randn(steps, size, generator=generator) * 1.5).to(dtype)
    gradient = torch.randn(current.shape, generator=generator).to(dtype)
    x, a = (
        current.to(device, copy=True).requires_grad_(),
        torch.full((1,), 0.8, device=device).requires_grad_(),
    )
    spikes, u = tlif(x, a, 0.7, 0.5, reset)
    spikes.backward(gradient.to(device))

    twin = current.float().clone().requires_grad_()
    expected = neuron.run(twin)
    expected.backward(gradient.float())
    close(spikes.cpu(), expected, dtype)
    assert torch.equal(spikes.cpu().sign(), expected.detach().sign().to(dtype))
    assert torch.equal(u.cpu(), membranes(neuron, twin.detach()).detach())
    close(x.grad.cpu(), twin.grad, dtype)
    close(a.grad.cpu(), neuron.amplitude.grad, dtype)


def test_the_operators_are_registered_with_fake_tensors_and_gradients(device: str) -> None:
    x = torch.randn(2, 5, device=device).requires_grad_()
    one = torch.ones(1, device=device).requires_grad_()
    torch.library.opcheck(lif_operator, (x, one, 0.5, 0, 2, 2.0), test_utils=CHECKS)
    torch.library.opcheck(tlif_operator, (x, one, 0.5, 0.5, False), test_utils=CHECKS)
