"""Models of two blocks, width 16, vocabulary 50."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from spikeformers.models import build_config, build_model, control_of

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
    "neuron": "ni-lif",
    "levels": 4,
    "spiking_head": False,
}


def _liven(model: PreTrainedModel) -> PreTrainedModel:
    """Random biases and position biases, which start at zero."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bias" in name:
                parameter.normal_(0, 0.3)
    return model.eval()


@pytest.fixture
def spiking() -> Callable[..., PreTrainedModel]:
    """``spiking("wd", wta="top_k")``: the same weights at each call."""

    def make(kind: str = "wd", **overrides: Any) -> PreTrainedModel:
        torch.manual_seed(3)
        config = build_config(f"{kind}-spikingformer-tiny", 50, SIZES | overrides)
        return _liven(build_model(config))

    return make


@pytest.fixture
def binary() -> PreTrainedModel:
    """A BiSpikCLM of 4 steps."""
    torch.manual_seed(3)
    sizes = {key: value for key, value in SIZES.items() if key not in ("neuron", "levels")}
    return _liven(build_model(build_config("bispikclm-tiny", 50, sizes)))


@pytest.fixture
def dense() -> Callable[..., PreTrainedModel]:
    """``dense("wd", "rotary")``: the twin of that spiking model."""

    def make(kind: str = "wd", positions: Any = "learned") -> PreTrainedModel:
        torch.manual_seed(3)
        config = build_config(f"{kind}-spikingformer-tiny", 50, SIZES)
        return _liven(build_model(control_of(config, positions)))

    return make


@pytest.fixture
def ids() -> torch.Tensor:
    """Two sentences of seven tokens."""
    return torch.randint(0, 50, (2, 7), generator=torch.Generator().manual_seed(5))
