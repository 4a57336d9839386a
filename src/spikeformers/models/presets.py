"""Sizes by name, and models from configs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from spikeformers.errors import ConfigError, nearest
from spikeformers.models import bispikclm, wd_spikingformer, we_spikingformer
from spikeformers.models._config import SpikingConfig
from spikeformers.models.bispikclm import BiSpikCLMConfig
from spikeformers.models.wd_spikingformer import WDSpikingformerConfig
from spikeformers.models.we_spikingformer import WESpikingformerConfig

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

MASKED_TYPES = ("we_spikingformer", "bert", "roformer")


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
    try:
        return _kind(preset)(**values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{preset} with {overrides}: {error}") from error
    except Exception as error:
        # huggingface_hub wraps validation errors in types of its own.
        cause = error.__cause__
        if isinstance(cause, ConfigError):
            raise cause from None
        raise ConfigError(f"{preset} with {overrides}: {error}") from error


def is_masked(config: PreTrainedConfig) -> bool:
    """Whether the model of ``config`` is trained on masked tokens instead of the next one."""
    return config.model_type in MASKED_TYPES


def build_model(config: PreTrainedConfig) -> PreTrainedModel:
    """A freshly initialised language model for a spiking config or a dense twin's."""
    auto = AutoModelForMaskedLM if is_masked(config) else AutoModelForCausalLM
    model: PreTrainedModel = auto.from_config(config)
    return model
