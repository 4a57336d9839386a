"""Kernels in Triton: on a GPU if there is one, else in Triton's interpreter.

``pytest -m triton`` runs these tests alone, which is what to do on a GPU.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == HERE:
            item.add_marker("triton")


@pytest.fixture(scope="session")
def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(scope="module", autouse=True)
def poisoned() -> Iterator[None]:
    """Fill the memory of outputs with NaN (integers: -7), so that what is not written shows."""
    if importlib.util.find_spec("triton") is None:
        yield
        return
    from spikeformers.kernels.triton import _launch

    plain = _launch.empty

    def filled(*arguments: object, **options: object) -> Tensor:
        memory = plain(*arguments, **options)  # type: ignore[arg-type]
        return memory.fill_(float("nan") if memory.is_floating_point() else -7)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_launch, "empty", filled)
        yield


@pytest.fixture(scope="session")
def close() -> Callable[[Tensor, Tensor, torch.dtype], None]:
    """Compare a kernel's result with its twin's in float32, relative to the largest value."""

    def compare(got: Tensor, expected: Tensor, dtype: torch.dtype = torch.float32) -> None:
        tolerance = 2e-5 if dtype == torch.float32 else 2e-2
        assert got.shape == expected.shape
        got, expected = got.detach(), expected.detach()
        assert bool(got.isfinite().all())
        error = (got.float() - expected.float()).abs().max()
        assert float(error) <= tolerance * max(float(expected.abs().max()), 0.1)

    return compare
