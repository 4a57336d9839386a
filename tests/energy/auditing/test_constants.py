from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from spikeformers.energy.auditing.constants import Constants


class Follow(TorchDispatchMode):
    def __init__(self, constants: Constants) -> None:
        super().__init__()
        self.constants = constants

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.constants.follow(func, args, kwargs or {}, out)
        return out


def is_constant(make: Callable[[Tensor, Tensor], Tensor]) -> bool:
    """Whether ``make(weight, data)`` counts as fixed before the run."""
    layer = nn.Linear(4, 4)
    constants = Constants(layer)
    with torch.no_grad(), Follow(constants):
        made = make(layer.weight, torch.from_numpy(torch.randn(4, 4).numpy()))
    return made in constants


@pytest.mark.parametrize(
    "make",
    [
        lambda w, x: w,
        lambda w, x: w.data,
        lambda w, x: w.t().exp() + 1,
        lambda w, x: torch.arange(4),
        lambda w, x: torch.zeros_like(x),
        lambda w, x: x.new_ones(3),
        lambda w, x: torch.cat([w, torch.eye(4)]),
        lambda w, x: w.clone().mul_(2),
    ],
)
def test_constants(make: Callable[[Tensor, Tensor], Tensor]) -> None:
    assert is_constant(make)


def written(x: Tensor, value: Tensor) -> Tensor:
    x.view(-1)[:2] = value.flatten()[:2]
    return x


@pytest.mark.parametrize(
    "make",
    [
        lambda w, x: x,
        lambda w, x: w + x,
        lambda w, x: torch.stack([w, x]),
        lambda w, x: torch.rand(4),
        lambda w, x: torch.zeros(4, 4).copy_(x),
        lambda w, x: written(torch.zeros(4, 4), x),
        lambda w, x: written(w, x),  # a parameter that the run overwrites
        lambda w, x: torch.mul(w, x, out=torch.empty(4, 4)),
    ],
)
def test_data(make: Callable[[Tensor, Tensor], Tensor]) -> None:
    assert not is_constant(make)
