"""Accuracy and confusion by hand; entropy of Q, K and V beside its ceiling."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spikeformers.errors import ConfigError, DataError
from spikeformers.evaluation import classify, entropy_of
from spikeformers.evaluation.vision import BINS
from spikeformers.models import build_model, build_vision_config
from spikeformers.neurons import LIF, TLIF, Rectifier


class Lookup(nn.Module):
    """Says the class that stands in the first pixel."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.classes, self.unused = classes, nn.Parameter(torch.zeros(1))

    def forward(self, pixel_values: Tensor) -> Any:
        result = pixel_values[:, 0, 0, 0].long()
        return SimpleNamespace(logits=nn.functional.one_hot(result, self.classes).float())


def batch(predicted: list[int], true: list[int]) -> dict[str, Tensor]:
    pixels = torch.zeros(len(predicted), 1, 2, 2)
    pixels[:, 0, 0, 0] = torch.tensor(predicted).float()
    return {"pixel_values": pixels, "labels": torch.tensor(true)}


def test_accuracy_by_hand() -> None:
    seen: list[tuple[int, int | None]] = []
    batches = [batch([0, 0, 1], [0, 0, 0]), batch([1, 1], [1, 0])]
    report = classify(Lookup(), batches, ("a", "b", "c"), lambda *values: seen.append(values))
    assert report.images == 5
    assert report.accuracy == 3 / 5
    assert report.per_class == {"a": 2 / 4, "b": 1.0, "c": None}
    assert report.confusion == [[2, 2, 0], [0, 1, 0], [0, 0, 0]]
    hit, miss = math.log(math.e + 2) - 1, math.log(math.e + 2)
    assert report.loss == pytest.approx((3 * hit + 2 * miss) / 5)
    assert seen == [(3, None), (5, None)]


def test_what_is_refused() -> None:
    with pytest.raises(DataError, match="no image"):
        classify(Lookup(), [], ("a", "b", "c"))
    with pytest.raises(ConfigError, match="3 classes; these data have 2"):
        classify(Lookup(), [batch([0], [0])], ("a", "b"))


class OneLayer(nn.Module):
    """model.layers.0.attention.fire_*.neuron, fed with given currents."""

    def __init__(self, currents: dict[str, Tensor]) -> None:
        super().__init__()
        kinds = {"query": LIF(), "key": Rectifier(), "value": TLIF(amplitude="fixed")}
        attention = nn.Module()
        for role, kind in kinds.items():
            fire = nn.Module()
            fire.neuron = kind
            setattr(attention, f"fire_{role}", fire)
        block = nn.Module()
        block.attention = attention
        self.layers = nn.ModuleList([block])
        self.currents, self.head = currents, nn.Linear(1, 1)

    def forward(self, pixel_values: Tensor) -> None:
        for role, current in self.currents.items():
            getattr(self.layers[0].attention, f"fire_{role}").neuron(current[None])


def test_entropy_by_hand() -> None:
    currents = {
        "query": torch.tensor([2.0, 0, 0, 0]),  # one in four fires
        "key": torch.tensor([-1.0, 0, 0.5, 1.0]),  # 0 twice, and two bins
        "value": torch.tensor([1.0, -1, 0, 0]),
    }
    result = {
        entropy.role: entropy
        for entropy in entropy_of(OneLayer(currents), [{"pixel_values": torch.ones(1)}])
    }
    quarter = -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))
    assert result["query"].bits == pytest.approx(quarter)
    assert (result["query"].kind, result["query"].ceiling) == ("binary", 1.0)
    assert result["value"].bits == pytest.approx(1.5)
    assert (result["value"].kind, result["value"].ceiling) == ("ternary", math.log2(3))
    assert result["key"].bits == pytest.approx(1.5)
    assert (result["key"].kind, result["key"].ceiling) == ("real", math.log2(BINS + 1))


def test_entropy_of_a_model_stays_under_its_ceiling() -> None:
    torch.manual_seed(0)
    config = build_vision_config("a2os2a-digits", {"hidden_size": 16, "steps": 2})
    model = build_model(config)
    images = [{"pixel_values": torch.randn(8, 1, 8, 8)}]
    model(images[0]["pixel_values"])
    result = entropy_of(model, images)
    assert [(entropy.layer, entropy.role) for entropy in result] == [
        (layer, role) for layer in (0, 1) for role in ("query", "key", "value")
    ]
    assert [entropy.kind for entropy in result] == ["binary", "real", "ternary"] * 2
    assert all(0 <= entropy.bits <= entropy.ceiling + 1e-9 for entropy in result)
