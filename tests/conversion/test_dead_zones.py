"""Dead zones: costs, hulls and the greedy choice by hand, and densities that models reach."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from spikeformers.conversion import (
    Converted,
    allocate,
    convert,
    density_of,
    make_plan,
    uncalibrated,
)
from spikeformers.conversion import dead_zones as zones
from spikeformers.data import make_tokenizer
from spikeformers.errors import ConfigError
from spikeformers.neurons import TokenIF

Dense = Callable[..., PreTrainedModel]
ALL = ["ffn", "qkv", "out", "head"]


def spiking(model: PreTrainedModel) -> PreTrainedModel:
    plan = make_plan(model, threshold="token", attention="kept", spiking_maps=ALL)
    return uncalibrated(model, plan)


def place(
    weights: int, silent: list[float], costs: list[float], values: int = 100
) -> zones.LayerCosts:
    """A place whose first bins silence and cost so much; the rest of them nothing more."""
    made = zones.LayerCosts("place", TokenIF(4, 8), weights, values=values, tokens=1)
    for number in range(zones.BINS):
        made.silent[number] = silent[min(number, len(silent) - 1)]
        made.costs[number] = costs[min(number, len(costs) - 1)]
    return made


def step_of(saved: float) -> zones.Step:
    return zones.Step(0.12, 2, saved)


def test_what_silence_costs_by_hand() -> None:
    """One token [1, -1, 2, 4], mean 2: |x| / mean = .5, .5, 1, 2. Gradients 1, 2, -3, 5.

    d = -x up to the dead zone: g . d = -(1 - 2) = 1 to .5, then 1 + 6 = 7, then 7 - 20 = -13.
    """
    made = zones.LayerCosts("place", TokenIF(4, 8), 40)
    x = torch.tensor([[[1.0, -1.0, 2.0, 4.0]]])
    gradient = torch.tensor([[[1.0, 2.0, -3.0, 5.0]]])
    counts = torch.tensor([[[1.0, -1.0, 2.0, 0.0]]])  # the last does not fire, say
    zones._add(made, x, gradient, counts)
    per_mean = zones.BINS_PER_MEAN
    for bins, cost, silent in (
        *((per_mean // 2 - 1, 0.0, 0), (per_mean // 2, 0.5, 2), (per_mean - 1, 0.5, 2)),
        *((per_mean, 24.5, 3), (2 * per_mean, 84.5, 3)),
    ):
        assert float(made.costs[bins]) == pytest.approx(cost)
        assert float(made.silent[bins]) == silent
    assert (made.values, made.mute, made.tokens) == (4, 1, 1)


def test_a_dear_first_step_does_not_hide_a_cheap_second() -> None:
    """100 weights: 10 saved for 5 nats, then 50 for 6: one step of 50 at 6 / 50."""
    (step,) = zones._hull(place(100, [10.0, 50.0], [5.0, 6.0]))
    assert step == (pytest.approx(0.12), 2, 50.0)
    first, second = zones._hull(place(100, [10.0, 50.0], [0.5, 6.0]))
    assert first == (pytest.approx(0.05), 1, 10.0)
    assert second == (pytest.approx(5.5 / 40), 2, 40.0)


def test_the_cheapest_weight_goes_first() -> None:
    """The second place is a tenth as dear per weight, though dearer per value."""
    small = place(100, [50.0], [1.0])
    large = place(2000, [50.0], [2.0])
    hulls = [zones._hull(small), zones._hull(large)]
    bin_width = 1 / zones.BINS_PER_MEAN
    assert zones._greedy([small, large], hulls, 0.9) == [0.0, bin_width]
    assert zones._greedy([small, large], hulls, 0.51) == [bin_width, bin_width]
    assert zones._greedy([place(100, [10.0, 50.0], [5.0, 6.0])], [[step_of(50)]], 0.95) == [
        bin_width
    ]
    with pytest.raises(ConfigError, match=r"0\.400 is out of reach.*leave 0\.500"):
        zones._greedy([small, large], hulls, 0.4)


def test_places_know_how_many_weights_read_them(dense: Dense) -> None:
    model = spiking(dense("llama"))
    places = {place.name.rpartition("model.")[2]: place.weights for place in zones.places_of(model)}
    assert places == {
        "layers.0.self_attn.fire": 16 * (16 + 2 * 8),
        "layers.0.self_attn.inner.o_proj.fire": 16 * 16,
        "layers.0.mlp.fire_in": 2 * 16 * 24,
        "layers.0.mlp.fire_hidden": 16 * 24,
        "layers.1.self_attn.fire": 16 * (16 + 2 * 8),
        "layers.1.self_attn.inner.o_proj.fire": 16 * 16,
        "layers.1.mlp.fire_in": 2 * 16 * 24,
        "layers.1.mlp.fire_hidden": 16 * 24,
        "lm_head.fire": 16 * 60,
    }


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma3_text"])
@pytest.mark.parametrize("density", [0.85, 0.6])
def test_a_density_is_reached_and_the_same_each_time(
    dense: Dense, windows: Tensor, kind: str, density: float
) -> None:
    models = [spiking(dense(kind)) for _ in range(2)]
    first, second = (allocate(model, windows, density) for model in models)
    assert first == second
    reached, shares = density_of(models[0], windows)
    assert reached == pytest.approx(density, abs=0.02)
    total = sum(row["weights"] for row in first)
    assert sum(row["density"] * row["weights"] for row in first) / total == pytest.approx(reached)
    assert {row["name"]: row["density"] for row in first} == shares
    assert all(0 <= row["dead_zone"] <= 3 for row in first)


def test_places_that_cost_less_are_silenced_more(dense: Dense, windows: Tensor) -> None:
    """A head that tells all tokens alike loses nothing by silence."""
    model = dense("gpt_neox")
    with torch.no_grad():
        model.lm_head.weight.mul_(1e-3)
        model.lm_head.weight[:, :8] *= 1e3
    rows = allocate(spiking(model), windows, 0.8)
    assert min(row["density"] for row in rows) < 0.75
    assert max(row["density"] for row in rows) > 0.9


def test_allocation_leaves_the_model_as_it_was_but_for_dead_zones(
    dense: Dense, windows: Tensor
) -> None:
    model = spiking(dense("llama"))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    required = [parameter.requires_grad for parameter in model.parameters()]
    allocate(model, windows, 0.8)
    assert [parameter.requires_grad for parameter in model.parameters()] == required
    for name, tensor in model.state_dict().items():
        assert name.endswith("dead_zone") or torch.equal(tensor, before[name]), name
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_conversion_keeps_its_dead_zones(dense: Dense, windows: Tensor, tmp_path: Path) -> None:
    model = dense("llama")
    out = tmp_path / "out"

    def converted(density: float, resume: bool) -> Converted:
        plan = make_plan(model, threshold="token", attention="kept", spiking_maps=ALL)
        tokenizer = make_tokenizer("byte")
        return convert(model, tokenizer, windows, plan, out, density=density, resume=resume)

    result = converted(0.7, False)
    assert len(result.dead_zones) == 9
    loaded = AutoModelForCausalLM.from_pretrained(out).eval()
    assert density_of(loaded, windows) == density_of(result.model, windows)
    assert density_of(loaded, windows)[0] == pytest.approx(0.7, abs=0.02)
    assert converted(0.7, True).dead_zones == result.dead_zones
    with pytest.raises(ConfigError, match="begun with another density"):
        converted(0.8, True)


@pytest.mark.parametrize("density", [0.0, 1.0, -0.5, float("nan")])
def test_a_density_lies_between_0_and_1(dense: Dense, windows: Tensor, density: float) -> None:
    with pytest.raises(ConfigError, match="must lie between 0 and 1"):
        allocate(spiking(dense("llama")), windows, density)


def test_a_model_without_such_neurons_is_refused(dense: Dense, windows: Tensor) -> None:
    with pytest.raises(ConfigError, match="convert with threshold='token'"):
        allocate(dense("llama"), windows, 0.8)
