"""Surrogate derivatives: their formulas at points worked by hand, and their area."""

from __future__ import annotations

import math

import pytest
import torch

from spikeformers.errors import ConfigError
from spikeformers.neurons.surrogate import (
    SURROGATES,
    round_clip,
    round_clip_soft,
    step,
    surrogate,
)

PI = math.pi
SIG2 = 1 / (1 + math.exp(-2.0))

# name, sharpness, {distance to the threshold: derivative}
POINTS = [
    ("rectangular", 1.0, {0.0: 1.0, 0.5: 1.0, -0.5: 1.0, 0.51: 0.0, -3.0: 0.0}),
    ("rectangular", 2.0, {0.0: 2.0, 0.25: 2.0, -0.2: 2.0, 0.26: 0.0}),
    ("triangle", 1.0, {0.0: 1.0, 0.25: 0.75, -0.75: 0.25, 1.5: 0.0}),
    ("triangle", 2.0, {0.0: 2.0, 0.25: 1.0, -0.25: 1.0, 0.5: 0.0}),
    ("arctan", 2.0, {0.0: 1.0, 1 / PI: 0.5, -2 / PI: 0.2}),
    ("arctan", 1.0, {0.0: 0.5, 2 / PI: 0.25}),
    ("sigmoid", 1.0, {0.0: 0.25, 2.0: SIG2 * (1 - SIG2), -2.0: SIG2 * (1 - SIG2)}),
    ("sigmoid", 4.0, {0.0: 1.0, 0.5: 4 * SIG2 * (1 - SIG2)}),
]


@pytest.mark.parametrize(("name", "sharpness", "points"), POINTS)
def test_formula_at_chosen_points(name: str, sharpness: float, points: dict[float, float]) -> None:
    x = torch.tensor(list(points), dtype=torch.float64)
    expected = torch.tensor(list(points.values()), dtype=torch.float64)
    torch.testing.assert_close(SURROGATES[name](x, sharpness), expected)


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("name", SURROGATES)
def test_area_is_one(name: str, sharpness: float) -> None:
    reach = 2000.0
    x = torch.linspace(-reach, reach, 4_000_001, dtype=torch.float64)
    area = torch.trapezoid(SURROGATES[name](x, sharpness), x).item()
    # arctan's tails beyond the reach hold 1 - 2/pi * arctan(pi/2 * alpha * reach).
    tails = 1 - 2 / PI * math.atan(PI / 2 * sharpness * reach) if name == "arctan" else 0.0
    assert area == pytest.approx(1 - tails, abs=1e-3 * sharpness + 1e-5)


@pytest.mark.parametrize("name", SURROGATES)
def test_step_is_a_heaviside_function_with_the_surrogate_as_gradient(name: str) -> None:
    x = torch.tensor([-1.2, -0.1, 0.0, 0.1, 0.9], dtype=torch.float64, requires_grad=True)
    upstream = torch.tensor([1.0, 2.0, -3.0, 0.5, 4.0], dtype=torch.float64)
    spikes = step(x, SURROGATES[name], 1.5)
    assert spikes.tolist() == [0, 0, 1, 1, 1]  # the threshold itself fires
    spikes.backward(upstream)
    torch.testing.assert_close(x.grad, upstream * SURROGATES[name](x.detach(), 1.5))


def test_round_clip_rounds_halves_to_even_and_clips() -> None:
    u = torch.tensor([-2.0, -0.2, 0.49, 0.5, 0.51, 1.5, 2.5, 3.6, 4.4, 9.0])
    counts = [0, 0, 0, 0, 1, 2, 2, 4, 4, 4]
    assert round_clip(u, 4).tolist() == counts
    assert round_clip(u, 4, 0.25).tolist() == [0.25 * c for c in counts]
    assert round_clip_soft(u, 4, 0.25, 2.0).tolist() == [0.25 * c for c in counts]


@pytest.mark.parametrize(
    ("margin", "leak", "expected"),
    [
        #           u = -1.0 -0.4  0.0  2.0  4.0  4.4  5.0
        (0.0, 0.0, [0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0]),
        (0.5, 0.0, [0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0]),
        (0.0, 0.1, [0.1, 0.1, 1.0, 1.0, 1.0, 0.1, 0.1]),
        (0.5, 0.1, [0.1, 1.0, 1.0, 1.0, 1.0, 1.0, 0.1]),
    ],
)
def test_round_clip_passes_the_gradient_inside_its_window(
    margin: float, leak: float, expected: list[float]
) -> None:
    u = torch.tensor([-1.0, -0.4, 0.0, 2.0, 4.0, 4.4, 5.0], requires_grad=True)
    (2 * round_clip(u, 4, 0.25, margin, leak)).sum().backward()
    torch.testing.assert_close(u.grad, 0.5 * torch.tensor(expected))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("margin", [0.0, 0.25, 0.1, -0.25])
@pytest.mark.parametrize("levels", [1, 4, 5, 16])
def test_round_clip_window_holds_its_bounds_and_not_their_neighbours(
    levels: int, margin: float, dtype: torch.dtype
) -> None:
    low, high = (torch.tensor(x, dtype=dtype) for x in (-margin, levels + margin))
    far = torch.tensor(math.inf, dtype=dtype)
    below, above = torch.nextafter(low, -far), torch.nextafter(high, far)
    u = torch.stack([below, low, high, above, below, low, high, above] * 5)  # vector lanes and tail
    u.requires_grad_()
    round_clip(u, levels, 0.5, margin).sum().backward()
    assert u.grad.tolist() == [0, 0.5, 0.5, 0] * 10


def test_round_clip_takes_a_window_without_an_end() -> None:
    u = torch.tensor([-1e30, 0.0, 1e30], requires_grad=True)
    round_clip(u, 4, margin=math.inf).sum().backward()
    assert u.grad.tolist() == [1, 1, 1]


def test_round_clip_soft_has_the_gradient_of_a_softplus() -> None:
    u = torch.tensor([-2.0, -0.5, 0.0, 1.3, 4.0, 9.0], dtype=torch.float64, requires_grad=True)
    (3 * round_clip_soft(u, 4, 0.25, 2.0)).sum().backward()
    slopes = [1 / (1 + math.exp(-2 * x)) for x in u.tolist()]
    assert u.grad.tolist() == pytest.approx([3 * 0.25 * s for s in slopes])
    x = u.detach().clone().requires_grad_()
    torch.nn.functional.softplus(x, beta=2.0).sum().backward()
    torch.testing.assert_close(u.grad, 0.75 * x.grad)


def test_unknown_name_says_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'arctn'.*Did you mean 'arctan'\?"):
        surrogate("arctn")
