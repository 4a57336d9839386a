"""Streaming attention of winners, and of grades, against the modules that define them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("triton", reason="triton is not installed: pip install 'spikeformers[triton]'")

from spikeformers.attention import Pairs
from spikeformers.attention._pairs import line_written_out
from spikeformers.attention.power_of_two import FURTHEST, SILENT, _Read
from spikeformers.attention.wta import _Compete, winners_of
from spikeformers.kernels.triton import graded, wta
from spikeformers.kernels.triton.wta import winner_take_all

cases = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**31 - 1),
        "queries": st.sampled_from([1, 5, 16, 19]),
        "past": st.sampled_from([0, 0, 7]),
        "width": st.sampled_from([3, 8, 16]),
        "steps": st.integers(1, 2),
        "winners": st.sampled_from([1, 1, 2, 3, 8]),
        "causal": st.booleans(),
        "biased": st.booleans(),
        "mask": st.sampled_from(["none", "keys", "pairs"]),
        "levels": st.sampled_from([1, 3, 4]),
        "temperature": st.sampled_from([1.0, 0.5]),
        "weight": st.sampled_from([1.0, 0.25]),
        "digits": st.integers(1, 4),
    }
)
GRADES = {"furthest": FURTHEST, "silent": SILENT}

CHECKS = (
    "test_schema",
    "test_autograd_registration",
    "test_faketensor",
    "test_aot_dispatch_static",
)
GENERATE = (Phase.generate,)  # to shrink a failure would take the interpreter an hour


def spikes(generator: torch.Generator, levels: int, *shape: int) -> Tensor:
    return torch.randint(0, levels + 1, shape, generator=generator).float() / levels


def mask_of(kind: str, queries: int, keys: int, generator: torch.Generator) -> Tensor | None:
    if kind == "none":
        return None
    shape = (1, keys) if kind == "keys" else (1, queries, keys)
    return torch.rand(shape, generator=generator) < 0.7


def allowed_by(mask: Tensor | None, queries: int, keys: int, causal: bool) -> Tensor:
    allowed = Pairs(causal).written_out(queries, keys, torch.device("cpu"))
    if mask is None:
        return allowed
    return allowed & (mask[:, None, None] if mask.dim() == 2 else mask[:, None])


def check(
    case: dict[str, Any], dtype: torch.dtype, device: str, close: Any, *, grades: bool = False
) -> None:
    heads = 3 - case["steps"]
    queries, keys = case["queries"], case["queries"] + case["past"]
    generator = torch.Generator().manual_seed(case["seed"])
    q = spikes(generator, case["levels"], case["steps"], heads, queries, case["width"])
    k, v = (
        spikes(generator, case["levels"], case["steps"], heads, keys, case["width"])
        for _ in range(2)
    )
    q, k, v = (x.to(dtype) for x in (q, k, v))
    scale = torch.rand(heads, generator=generator) + 0.3
    line = torch.randn(heads, queries + keys - 1, generator=generator) if case["biased"] else None
    gy = torch.randn(q.shape, generator=generator).to(dtype)
    mask = mask_of(case["mask"], queries, keys, generator)
    unit = torch.tensor([1 / 9]) if case["levels"] == 3 and dtype == torch.float32 else None

    inputs = [
        x if x is None else x.to(device, copy=True).requires_grad_() for x in (q, k, v, scale, line)
    ]
    rule = ("digits",) if grades else ("winners", "weight")
    options = {name: case[name] for name in ("causal", "temperature", *rule)}
    options["unit"] = None if unit is None else unit.to(device)
    operands = (*inputs, None if mask is None else mask.to(device))
    if grades:
        y = graded.graded_sum(*operands, **options, **GRADES)
    else:
        y, _ = winner_take_all(*operands, **options)
    y.backward(gy.to(device))

    twins = [
        x if x is None else x.detach().float().clone().requires_grad_()
        for x in (q, k, v, scale, line)
    ]
    expected = (_Read if grades else _Compete).apply(
        *(x.unsqueeze(1) for x in twins[:3]),
        None if line is None else line_written_out(twins[4], keys),
        allowed_by(mask, queries, keys, case["causal"]),
        twins[3].view(heads, 1, 1),
        case["temperature"], *(case[name] for name in rule), unit,
    )[:, 0]  # fmt: skip
    expected.backward(gy.float())
    if dtype != torch.float32 or grades:
        close(y.cpu(), expected, dtype)
    else:
        assert torch.equal(y.cpu(), expected)
    if dtype != torch.float32:  # the scale's is a sum of rounded terms that cancel
        inputs[3] = None
    for got, twin in zip(inputs, twins, strict=True):
        if got is not None:
            close(got.grad.cpu(), twin.grad, dtype)


@settings(max_examples=6, phases=GENERATE)
@given(case=cases)
def test_output_and_every_gradient_are_the_definitions(case: Any, device: str, close: Any) -> None:
    check(case, torch.float32, device, close)


@settings(max_examples=6, phases=GENERATE)
@given(case=cases)
def test_graded_sums_and_every_gradient_are_the_definitions(
    case: Any, device: str, close: Any
) -> None:
    check(case, torch.float32, device, close, grades=True)


@settings(max_examples=2, phases=GENERATE)
@given(case=cases)
def test_grades_in_bfloat16_are_the_definitions_to_its_precision(
    case: Any, device: str, close: Any
) -> None:
    check({**case, "levels": 4, "biased": False}, torch.bfloat16, device, close, grades=True)


@settings(max_examples=2, phases=GENERATE)
@given(case=cases)
def test_gradients_in_bfloat16_are_the_definitions_to_its_precision(
    case: Any, device: str, close: Any
) -> None:
    # Scores of quarters are exact in bfloat16, those of thirds are not.
    check({**case, "levels": 4, "biased": False}, torch.bfloat16, device, close)


@settings(max_examples=6, phases=GENERATE)
@given(
    seed=st.integers(0, 2**31 - 1),
    winners=st.sampled_from([1, 3, 8]),
    keys=st.sampled_from([6, 40]),
    causal=st.booleans(),
    half=st.booleans(),
)
def test_winners_of_integer_scores_are_the_references_bit_for_bit(
    seed: int, winners: int, keys: int, causal: bool, half: bool, device: str
) -> None:
    """Few distinct scores, so ties decide: the lowest index, best first, -1 where none is left."""
    generator = torch.Generator().manual_seed(seed)
    q, k = (spikes(generator, 1, 1, 1, keys, 5) for _ in range(2))
    mask = torch.rand(1, keys, generator=generator) < 0.6
    allowed = allowed_by(mask, keys, keys, causal)
    scores = (q @ k.transpose(-1, -2)).masked_fill(~allowed, float("-inf"))
    index, exists = winners_of(scores, winners)
    expected = index.masked_fill(~exists, -1)
    dtype = torch.bfloat16 if half else torch.float32
    q, k = q.to(device, dtype), k.to(device, dtype)
    _, got = winner_take_all(
        q, k, k, torch.ones(1, device=device), mask=mask.to(device), causal=causal, winners=winners
    )
    got = got.cpu()
    assert torch.equal(got[..., : expected.shape[-1]], expected.int())
    assert (got[..., expected.shape[-1] :] == -1).all()


def test_a_query_that_sees_nothing_gets_zeros_and_passes_none_back(device: str) -> None:
    q, k, v = (torch.rand(1, 1, 4, 8, device=device).requires_grad_() for _ in range(3))
    mask = torch.tensor([[False, False, True, True]], device=device)
    y, index = winner_take_all(q, k, v, torch.ones(1, device=device), mask=mask, causal=True)
    y.sum().backward()
    assert (y[0, 0, :2] == 0).all()
    assert (q.grad[0, 0, :2] == 0).all()
    assert index[0, 0, :, 0].tolist()[:3] == [-1, -1, 2]


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that an operation has returned."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(x, Tensor):
                self.numel = max(self.numel, x.untyped_storage().nbytes() // x.element_size())
        return out


def test_no_tensor_has_a_number_for_every_pair(device: str) -> None:
    tokens = 48
    inputs = [torch.rand(1, 1, tokens, 16, device=device).requires_grad_() for _ in range(3)]
    line = torch.randn(1, 2 * tokens - 1, device=device).requires_grad_()
    scale, ones = torch.ones(1, device=device), torch.ones(1, 1, tokens, 16, device=device)
    with Largest() as largest:
        y, _ = winner_take_all(*inputs, scale, line, causal=True)
        y.backward(ones)
    assert inputs[0].numel() <= largest.numel < tokens * tokens


@pytest.mark.parametrize(
    ("operator", "rule"),
    [(wta.forward_operator, (2, 1.0)), (graded.forward_operator, (2, FURTHEST, SILENT))],
    ids=["wta", "graded"],
)
def test_the_operator_is_registered_with_fake_tensors_and_a_gradient(
    operator: Any, rule: tuple[Any, ...], device: str
) -> None:
    q, k, v = (torch.rand(1, 1, 3, 4, device=device).requires_grad_() for _ in range(3))
    scale, line = torch.ones(1, device=device), torch.zeros(1, 5, device=device).requires_grad_()
    torch.library.opcheck(
        operator, (q, k, v, scale, line, None, True, 1.0, *rule, None, True), test_utils=CHECKS
    )
