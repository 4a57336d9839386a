"""Norm and integer neuron in one pass against torch's norms and `spikeformers.neurons.nilif`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

pytest.importorskip("triton", reason="triton is not installed: pip install 'spikeformers[triton]'")

from spikeformers.kernels.triton.norm_fire import forward_operator, norm_fire
from spikeformers.neurons import ILIF, NILIF

EPS = 1e-5

CHECKS = (
    "test_schema",
    "test_autograd_registration",
    "test_faketensor",
    "test_aot_dispatch_static",
)
GENERATE = (Phase.generate,)  # to shrink a failure would take the interpreter an hour


def norm_of(kind: str, width: int, generator: torch.Generator) -> nn.Module:
    if kind == "none":
        return nn.Identity()
    norm = nn.LayerNorm(width, eps=EPS) if kind == "layer" else nn.RMSNorm(width, eps=EPS)
    for parameter in norm.parameters():
        parameter.data = torch.rand(width, generator=generator) + 0.5
    return norm


def away_from_steps(x: Tensor, norm: nn.Module, neuron: NILIF) -> bool:
    """Whether no membrane is so near a half that the order of a sum decides the count."""
    carry, near = 0.0, False
    with torch.no_grad():
        for current in norm(x):
            u = carry + current
            near |= bool(((u - u.floor() - 0.5).abs() < 1e-4).any())
            for edge in (-neuron.margin, neuron.levels + neuron.margin):
                near |= bool(((u - edge).abs() < 1e-4).any())
            carry = neuron.keep(u, neuron.fire(u))
    return not near


@settings(max_examples=12, phases=GENERATE)
@given(
    seed=st.integers(0, 2**20),
    steps=st.integers(1, 3),
    rows=st.sampled_from([1, 3]),
    width=st.sampled_from([5, 16, 40]),
    norm_kind=st.sampled_from(["layer", "rms", "none"]),
    kind=st.sampled_from([NILIF, ILIF]),
    levels=st.sampled_from([1, 3, 4]),
    gradient=st.sampled_from(["rectangular", "sigmoid"]),
    dtype=st.sampled_from([torch.float32, torch.float32, torch.bfloat16]),
)
def test_spikes_sums_and_every_gradient_are_the_definitions(
    seed: int, steps: int, rows: int, width: int, norm_kind: str, kind: Any, levels: int,
    gradient: Any, dtype: torch.dtype, device: str, close: Any,
) -> None:  # fmt: skip
    neuron = kind(levels, 0.5, gradient, 2.0, 0.25, 0.1)
    for attempt in range(100):
        generator = torch.Generator().manual_seed(seed + attempt)
        norm = norm_of(norm_kind, width, generator)
        current = (torch.randn(steps, rows, width, generator=generator) * 1.5).to(dtype)
        if away_from_steps(current.float(), norm, neuron):
            break
    g = torch.randn(current.shape, generator=generator).to(dtype)
    g_total = torch.randn(steps, rows, generator=generator)
    terms = [
        None if term is None else term.detach().to(device).requires_grad_()
        for term in (getattr(norm, "weight", None), getattr(norm, "bias", None))
    ]
    x = current.to(device, copy=True).requires_grad_()
    spikes, total, fired = norm_fire(
        x, *terms, norm=norm_kind, eps=EPS, levels=levels, unit=neuron.unit, decay=0.5,
        gradient=gradient, sharpness=2.0, margin=0.25, leak=0.1, wide=True,
    )  # fmt: skip
    ((spikes * g.to(device)).sum() + (total * g_total.to(device)).sum()).backward()

    twin = current.float().clone().requires_grad_()
    expected = neuron(norm(twin))
    ((expected * g.float()).sum() + (expected.sum(-1) * g_total).sum()).backward()
    close(spikes.cpu(), expected.detach())
    assert torch.equal((spikes.cpu() / neuron.unit).round(), (expected / neuron.unit).round())
    assert torch.equal(fired.cpu(), (expected != 0).float().sum(-1))
    close(total.detach().cpu(), expected.detach().sum(-1))
    close(x.grad.cpu(), twin.grad, dtype)
    for term, own in zip(
        terms, (getattr(norm, "weight", None), getattr(norm, "bias", None)), strict=True
    ):
        if term is not None:
            close(term.grad.cpu(), own.grad, dtype)


def test_halves_round_to_even_and_nan_stays_nan(device: str) -> None:
    x = torch.tensor([[[-1.0, 0.5, 1.5, 2.5, 3.5, 9.0, float("nan")]]], device=device)
    spikes, _, _ = norm_fire(x, norm="none", levels=4, unit=1.0)
    assert spikes[0, 0, :6].tolist() == [0, 0, 2, 2, 4, 4]
    assert bool(spikes[0, 0, 6].isnan())


def test_the_operator_is_registered_with_fake_tensors_and_a_gradient(device: str) -> None:
    x = torch.randn(2, 2, 5, device=device).requires_grad_()
    gain = torch.ones(5, device=device).requires_grad_()
    options = (True, 1, EPS, 4, 0.25, 0.5, False, 2.0, 0.0, 0.0)
    torch.library.opcheck(forward_operator, (x, gain, None, *options), test_utils=CHECKS)
