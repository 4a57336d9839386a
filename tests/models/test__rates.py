"""Targets by component: which layer pays above which density, worked by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from spikeformers.errors import ConfigError
from spikeformers.models._rates import rate_loss
from spikeformers.neurons import Neuron, observe

Make = Callable[..., Any]


def activity(model: Any, tokens: Tensor) -> dict[str, tuple[float, float]]:
    """(mean count, density) of each neuron layer."""
    found: dict[str, tuple[float, float]] = {}

    def note(name: str, neuron: Neuron, spikes: Tensor) -> None:
        count = spikes.abs().mean().item() / neuron.unit
        found[name] = (count, (spikes != 0).float().mean().item())

    with observe(model, note):
        model(tokens)
    return found


@pytest.mark.parametrize("kind", ["wd", "we"])
def test_the_key_with_most_parts_holds(make_model: Make, kind: str) -> None:
    """Everything is above its target of 0 but what a key lets off with 0.99."""
    tokens = torch.arange(16).view(2, 8) % 7
    every = activity(make_model(kind).train(), tokens)
    assert all(count > 0 for count, _ in every.values())
    targets = {"mlp": 0.99, "mlp.fire_hidden": 0.0, "layers.0.attention": 0.99}
    model = make_model(
        kind, firing_rate_weight=2.0, firing_rate_target=0.0, firing_rate_targets=targets
    )
    paying = [
        count
        for name, (count, _) in every.items()
        if name != "head_neuron"
        and not name.endswith("mlp.fire_in.neuron")
        and "layers.0.attention" not in name
    ]
    assert 0 < len(paying) < len(every)
    rate = model.train()(tokens).rate_loss
    assert rate.item() == pytest.approx(2.0 * sum(paying), rel=1e-4)


def test_of_keys_with_as_many_parts_the_last_holds(make_model: Make) -> None:
    """The last key lets off all layers, or those of the attention."""
    tokens = torch.arange(16).view(2, 8) % 7
    every = activity(make_model("wd").train(), tokens)
    rest = sum(count for name, (count, _) in every.items() if "attention" not in name)
    assert 0 < rest < sum(count for count, _ in every.values())
    for keys, expected in ((("attention", "layers"), 0.0), (("layers", "attention"), rest)):
        targets = dict(zip(keys, (0.0, 0.99), strict=True))
        model = make_model("wd", firing_rate_weight=1.0, firing_rate_targets=targets)
        assert model.train()(tokens).rate_loss.item() == pytest.approx(expected, rel=1e-4)


def test_the_head_pays_where_it_is_named(make_model: Make) -> None:
    tokens = torch.arange(16).view(2, 8) % 7
    count, density = activity(make_model("wd", spiking_head=True).train(), tokens)["head_neuron"]
    for targets, expected in ((None, 0.0), ({"head": density / 2}, count)):
        model = make_model(
            "wd",
            spiking_head=True,
            firing_rate_weight=1.0,
            firing_rate_target=0.99,
            firing_rate_targets=targets,
        )
        rate = model.train()(tokens).rate_loss
        assert rate.item() == pytest.approx(expected, rel=1e-4)


def test_a_key_that_fits_nothing_is_refused(make_model: Make) -> None:
    model = make_model(
        "wd", spiking_head=True, firing_rate_weight=1.0, firing_rate_targets={"mlp.fire_out": 0.1}
    )
    with pytest.raises(ConfigError, match=r"'mlp.fire_out'.*mlp.fire_hidden.*head"):
        model.train()(torch.zeros(1, 4, dtype=torch.long))


@pytest.mark.parametrize("value", [-0.1, 1.0])
def test_a_target_that_is_no_density_is_refused(make_model: Make, value: float) -> None:
    with pytest.raises(ConfigError, match=r"firing_rate_targets\['mlp'\] must be a density"):
        make_model("wd", firing_rate_targets={"mlp": value})


def test_rate_loss_by_hand(make_model: Make) -> None:
    """0.5 * (2 + 3): the second layer is at its target, and pays nothing."""
    config = make_model("wd", firing_rate_weight=0.5).config
    rates = [
        (torch.tensor(2.0), torch.tensor(0.25), 0.2),
        (torch.tensor(7.0), torch.tensor(0.25), 0.25),
        (torch.tensor(3.0), torch.tensor(0.01), 0.0),
    ]
    loss = rate_loss(config, rates)
    assert loss is not None
    assert loss.item() == 2.5
    assert rates == []
    assert rate_loss(config, []) is None
