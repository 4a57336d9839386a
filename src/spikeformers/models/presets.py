"""Sizes by name, and models from configs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from spikeformers.errors import ConfigError, nearest
from spikeformers.models import bispikclm, spiking_vit, wd_spikingformer, we_spikingformer
from spikeformers.models._checks import config_errors
from spikeformers.models._config import SpikingConfig
from spikeformers.models.bispikclm import BiSpikCLMConfig
from spikeformers.models.spiking_vit import SpikingViTConfig
from spikeformers.models.wd_spikingformer import WDSpikingformerConfig
from spikeformers.models.we_spikingformer import WESpikingformerConfig

Config = TypeVar("Config", bound=PreTrainedConfig)

PRESETS: dict[str, dict[str, Any]] = {
    **wd_spikingformer.PRESETS,
    **we_spikingformer.PRESETS,
    **bispikclm.PRESETS,
}
_KINDS: dict[str, type[SpikingConfig]] = {
    "wd": WDSpikingformerConfig,
    "we": WESpikingformerConfig,
    "bispikclm": BiSpikCLMConfig,
}

VISION_PRESETS: dict[str, dict[str, Any]] = spiking_vit.PRESETS

MASKED_TYPES = ("we_spikingformer", "bert", "roformer")
IMAGE_TYPES = ("spiking_vit", "vit")


def _kind(preset: str) -> type[SpikingConfig]:
    return _KINDS[preset.partition("-")[0]]


def known_keys(preset: str) -> set[str]:
    """Config fields that a preset's model takes from ``--set`` or a recipe."""
    inherited = {f.name for f in fields(PreTrainedConfig)}
    return {f.name for f in fields(_kind(preset))} - inherited  # type: ignore[arg-type]


def build_config(
    preset: str, vocab_size: int, overrides: Mapping[str, Any] | None = None
) -> SpikingConfig:
    """Config of ``preset`` with ``overrides``; ConfigError names the nearest preset or key."""
    if preset not in PRESETS:
        raise ConfigError(
            f"unknown preset {preset!r}; known: {', '.join(PRESETS)}.{nearest(preset, PRESETS)}"
        )
    overrides = dict(overrides or {})
    known = known_keys(preset)
    for key in overrides:
        if key not in known:
            raise ConfigError(
                f"unknown model key {key!r} for {preset}.{nearest(key, known)} "
                f"Known: {', '.join(sorted(known))}."
            )
    values = {"vocab_size": vocab_size, **PRESETS[preset], **overrides}
    return _built(_kind(preset), preset, values)


def _built(kind: Callable[..., Config], preset: str, values: dict[str, Any]) -> Config:
    with config_errors(preset):
        return kind(**values)


def is_masked(config: PreTrainedConfig) -> bool:
    """Whether the model of ``config`` is trained on masked tokens instead of the next one."""
    return config.model_type in MASKED_TYPES


def is_vision(config: PreTrainedConfig) -> bool:
    """Whether the model of ``config`` classifies images."""
    return config.model_type in IMAGE_TYPES


def build_vision_config(
    preset: str, overrides: Mapping[str, Any] | None = None
) -> SpikingViTConfig:
    """Config of a vision preset with ``overrides``, num_labels among them."""
    if preset not in VISION_PRESETS:
        raise ConfigError(
            f"unknown vision preset {preset!r}; known: {', '.join(VISION_PRESETS)}."
            f"{nearest(preset, VISION_PRESETS)}"
        )
    overrides = dict(overrides or {})
    known = vision_keys() | {"num_labels", "id2label", "label2id"}
    for key in overrides:
        if key not in known:
            raise ConfigError(
                f"unknown model key {key!r} for {preset}.{nearest(key, known)} "
                f"Known: {', '.join(sorted(known))}."
            )
    return _built(SpikingViTConfig, preset, {**VISION_PRESETS[preset], **overrides})


def vision_keys() -> set[str]:
    """Config fields that a vision preset takes from ``--set`` or a recipe."""
    inherited = {f.name for f in fields(PreTrainedConfig)}
    return {f.name for f in fields(SpikingViTConfig)} - inherited  # type: ignore[arg-type]


def build_model(config: PreTrainedConfig) -> PreTrainedModel:
    """A freshly initialised model for a spiking config or a dense twin's."""
    auto: Any = AutoModelForMaskedLM if is_masked(config) else AutoModelForCausalLM
    if is_vision(config):
        auto = AutoModelForImageClassification
    model: PreTrainedModel = auto.from_config(config)
    return model
