"""A2OS2A by chunks against the products that define it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

pytest.importorskip("triton", reason="triton is not installed: pip install 'spikeformers[triton]'")

from spikeformers.attention import A2OS2A
from spikeformers.kernels.triton.a2os2a import CHUNK, addition_only, forward_operator

CHECKS = (
    "test_schema",
    "test_autograd_registration",
    "test_faketensor",
    "test_aot_dispatch_static",
)
GENERATE = (Phase.generate,)  # to shrink a failure would take the interpreter an hour


@settings(max_examples=6, phases=GENERATE)
@given(
    seed=st.integers(0, 2**31 - 1),
    tokens=st.sampled_from([1, CHUNK + 3, 2 * CHUNK + 5]),
    width=st.sampled_from([3, 8, 16]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_output_state_and_every_gradient_are_the_definitions(
    seed: int, tokens: int, width: int, dtype: torch.dtype, device: str, close: Any
) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (1, tokens, width)
    q = torch.randint(0, 2, shape, generator=generator).to(dtype)
    k = torch.rand(shape, generator=generator).to(dtype)
    v = torch.randint(-1, 2, shape, generator=generator).to(dtype)
    gy = torch.randn(shape, generator=generator).to(dtype)
    inputs = [x.to(device, copy=True).requires_grad_() for x in (q, k, v)]
    y, before = addition_only(*inputs)
    y.backward(gy.to(device))

    twins = [x.detach().float().clone().requires_grad_() for x in (q, k, v)]
    causal = torch.ones(tokens, tokens, dtype=torch.bool).tril()[None, None]
    expected = A2OS2A("scores")(*(x[None, None] for x in twins), causal)[0, 0]
    expected.backward(gy.float())
    close(y.detach().cpu(), expected.detach(), dtype)
    for got, twin in zip(inputs, twins, strict=True):
        close(got.grad.cpu(), twin.grad, dtype)
    for chunk in range(before.shape[1]):
        end = chunk * CHUNK
        state = twins[1][:, :end].transpose(1, 2) @ twins[2][:, :end]
        close(before[:, chunk].cpu(), state.detach(), dtype)


def test_the_operator_is_registered_with_fake_tensors_and_a_gradient(device: str) -> None:
    q, k, v = (torch.rand(1, 3, 4, device=device).requires_grad_() for _ in range(3))
    torch.library.opcheck(forward_operator, (q, k, v), test_utils=CHECKS)
