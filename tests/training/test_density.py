"""Counted spikes, and layers that never fire."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from spikeformers.models import WESpikingformerConfig, WESpikingformerForSequenceClassification
from spikeformers.neurons import LIF, mark_padding
from spikeformers.training.density import DensityMeter


class Two(nn.Module):
    """Two neurons of threshold one, the second of which gets half its input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = LIF(threshold=1.0), LIF(threshold=1.0)

    def forward(self, current: torch.Tensor) -> None:
        self.first(current)
        self.second(current[..., :1] * 0.1)


def test_density_by_layer_and_overall(caplog: pytest.LogCaptureFixture) -> None:
    meter, model = DensityMeter(), Two()
    current = torch.tensor([[0.0, 2.0, 2.0, 0.0]])  # [S=1, 4]: two of four fire
    with meter.measuring(model):
        model(current)
        model(current * 0)
    with caplog.at_level(logging.WARNING):
        report = meter.report(step=9)
        meter.report(step=10)
    assert report["density_by_layer"] == {"first": 0.25, "second": 0.0}
    assert report["density"] == 2 / 10
    assert report["dead_layers"] == ["second"]
    assert [r.getMessage() for r in caplog.records] == ["second does not fire at all (step 9)"]


def test_nothing_is_counted_outside_or_left_from_before() -> None:
    meter, model = DensityMeter(), Two()
    current = torch.full((1, 4), 2.0)
    with meter.measuring(model):
        model(current)
    model(current)
    assert meter.by_layer() == {"first": 1.0, "second": 0.0}
    with meter.measuring(model):
        model(current * 0)
    assert meter.by_layer() == {"first": 0.0, "second": 0.0}


def test_padding_is_left_out() -> None:
    """Two of the three tokens of two neurons each; one neuron fires, as do two of the padding."""
    model, meter = nn.Sequential(LIF(threshold=1.0)), DensityMeter()
    mark_padding(model, torch.tensor([[1, 1, 0]]))
    current = torch.tensor([0.0, 2.0, 0.0, 0.0, 2.0, 2.0]).view(1, 1, 3, 2)
    with meter.measuring(model):
        model(current)
        model(current * 0)
    assert meter.report(1)["density"] == 1 / 8
    assert meter.by_layer() == {"0": 1 / 8}


def test_the_log_of_a_padded_batch_is_that_of_its_texts() -> None:
    torch.manual_seed(0)
    config = WESpikingformerConfig(
        vocab_size=23, hidden_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    model = WESpikingformerForSequenceClassification(config).train()
    text = torch.tensor([[3, 1, 4, 1, 5]])
    measured = []
    for padding in (0, 30):
        meter, filler = DensityMeter(), torch.full((1, padding), 9)
        mask = torch.cat([torch.ones_like(text), torch.zeros_like(filler)], 1)
        with meter.measuring(model):
            model(input_ids=torch.cat([text, filler], 1), attention_mask=mask)
        measured.append(meter.report(1))
    assert measured[0]["density"] == pytest.approx(measured[1]["density"])
    assert measured[0]["density_by_layer"] == pytest.approx(measured[1]["density_by_layer"])


def test_a_model_of_real_numbers_has_no_density() -> None:
    meter, model = DensityMeter(), nn.Linear(2, 2)
    with meter.measuring(model):
        model(torch.zeros(1, 2))
    assert meter.report(1) == {}
