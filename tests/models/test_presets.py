"""Presets: sizes, overrides, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from spikeformers.errors import ConfigError
from spikeformers.models import (
    PRESETS,
    WDSpikingformerForCausalLM,
    WESpikingformerForMaskedLM,
    build_config,
    build_model,
)


def parameters(preset: str, vocab_size: int) -> int:
    with torch.device("meta"):
        model = build_model(build_config(preset, vocab_size))
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("family", ["wd", "we"])
@pytest.mark.parametrize(
    ("size", "vocab_size", "expected", "within"),
    [
        ("small", 8192, 10e6, 0.10),
        ("base", 30522, 110e6, 0.05),
        ("0.4b", 50257, 0.4e9, 0.15),
        ("1.0b", 50257, 1.0e9, 0.15),
    ],
)
def test_sizes(family: str, size: str, vocab_size: int, expected: float, within: float) -> None:
    count = parameters(f"{family}-spikingformer-{size}", vocab_size)
    assert count == pytest.approx(expected, rel=within)


def test_shapes_the_paper_states_or_implies() -> None:
    assert {preset for preset in PRESETS if "spikingformer" in preset} == {
        f"{family}-spikingformer-{size}"
        for family in ("wd", "we")
        for size in ("tiny", "small", "base", "0.4b", "1.0b")
    }
    for preset, layers, width, heads in [
        ("we-spikingformer-base", 12, 768, 12),
        ("wd-spikingformer-0.4b", 24, 1024, 16),
    ]:
        config = build_config(preset, 30522)
        assert config.num_hidden_layers == layers
        assert config.hidden_size == width
        assert config.num_attention_heads == heads
        assert config.intermediate_size == 4 * width
    assert parameters("wd-spikingformer-tiny", 259) < 1.5e6


def test_overrides_and_models() -> None:
    config = build_config(
        "wd-spikingformer-tiny", 99, {"levels": 2, "wta": "top_k", "winners": 5, "neuron": "i-lif"}
    )
    assert (config.vocab_size, config.levels, config.wta) == (99, 2, "top_k")
    model = build_model(config)
    assert type(model) is WDSpikingformerForCausalLM
    assert model.model.layers[3].attention.core.winners == 5
    assert model.model.layers[0].mlp.fire_in.neuron.unit == 1.0
    config = build_config("we-spikingformer-tiny", 99)
    assert type(build_model(config)) is WESpikingformerForMaskedLM
    assert config.attention == "wssa"


def test_intermediate_size_follows_the_width() -> None:
    assert build_config("wd-spikingformer-tiny", 9, {"hidden_size": 64}).intermediate_size == 256


@pytest.mark.parametrize(
    ("preset", "overrides", "message"),
    [
        ("wd-spikeformer-tiny", {}, r"Did you mean 'wd-spikingformer-tiny'\?"),
        ("we-spikingformer-bse", {}, r"Did you mean 'we-spikingformer-base'\?"),
        ("wd-spikingformer-tiny", {"level": 2}, r"model key 'level'.*Did you mean 'levels'\?"),
        ("wd-spikingformer-tiny", {"wtaa": "hard"}, r"Did you mean 'wta'\?"),
        ("wd-spikingformer-tiny", {"pooling": "mean"}, "unknown model key 'pooling'"),
    ],
)
def test_unknown_names(preset: str, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build_config(preset, 50, overrides)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("preset", "overrides", "message"),
    [
        ("wd-spikingformer-tiny", {"attention": "wssa"}, r"Did you mean 'cwssa'\?"),
        ("we-spikingformer-tiny", {"attention": "cwssa"}, r"Did you mean 'wssa'\?"),
        ("wd-spikingformer-tiny", {"neuron": "nilif"}, r"Did you mean 'ni-lif'\?"),
        ("wd-spikingformer-tiny", {"num_attention_heads": 3}, "does not divide into 3 heads"),
        ("wd-spikingformer-tiny", {"levels": 0}, "levels must be at least 1, not 0"),
        ("wd-spikingformer-tiny", {"hidden_size": "wide"}, "hidden_size"),
        ("wd-spikingformer-tiny", {"dropout": "much"}, "dropout"),
    ],
)
def test_bad_values_are_refused_by_the_config(
    preset: str, overrides: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build_config(preset, 50, overrides)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "overrides",
    [
        {"attention_scale": 0.0},
        {"attention_scale": -1.0},
        {"wta": "top_k", "winners": 0},
        {"surrogate_temperature": 0.0},
        {"dropout": 1.5},
        {"neuron": "lif", "reset": "softly"},
        {"neuron": "t-lif", "reset": "delayed"},
        {"neuron": "t-lif", "amplitude": "frozen"},
        {"num_hidden_layers": 0},
        {"intermediate_size": 0},
        {"max_position_embeddings": 0},
    ],
    ids=str,
)
def test_values_no_model_can_be_built_from(overrides: dict[str, Any]) -> None:
    """By the config or by the model, but a ConfigError that names the key's value."""
    value = str(list(overrides.values())[-1])
    with pytest.raises(ConfigError) as caught:
        build_model(build_config("wd-spikingformer-tiny", 50, overrides))
    assert value in str(caught.value)
