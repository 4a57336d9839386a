"""Sizes by name, and models from configs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import transformers
from transformers import PreTrainedConfig, PreTrainedModel

from spikeformers.errors import ConfigError, nearest
from spikeformers.models._checks import config_errors
from spikeformers.models.registry import AUTO_CLASS, PRESETS, VISION_PRESETS, Presets, task_of

LABELS = ("num_labels", "id2label", "label2id")


def known_keys(preset: str) -> set[str]:
    """Config fields that a preset's model takes from ``--set`` or a recipe."""
    return _own_fields(PRESETS.entry(preset).config)


def vision_keys() -> set[str]:
    """Config fields that a vision preset takes from ``--set`` or a recipe."""
    return set().union(*(_own_fields(VISION_PRESETS.entry(p).config) for p in VISION_PRESETS))


def build_config(preset: str, vocab_size: int, overrides: Mapping[str, Any] | None = None) -> Any:
    """Config of ``preset`` with ``overrides``; ConfigError names the nearest preset or key.

    A preset of WD-Spikingformer has its sizes, the neurons of `DEAD_ZONES`, and attention by powers
    of two unless an attention or a field of a competition is given. What ``overrides`` say of
    neurons holds at every place: a field of theirs (levels, step_size, signed) as well as a
    firing-rate target, in place of the budget; ``neuron``, ``neurons`` (None included) or an
    attention with neurons of its own take the place of all of this.
    """
    return _build(PRESETS, "preset", preset, {"vocab_size": vocab_size}, overrides)


def build_vision_config(preset: str, overrides: Mapping[str, Any] | None = None) -> Any:
    """Config of a vision preset with ``overrides``, num_labels among them."""
    return _build(VISION_PRESETS, "vision preset", preset, {}, overrides, LABELS)


def build_model(config: PreTrainedConfig) -> PreTrainedModel:
    """A freshly initialised model for a spiking config or a dense twin's."""
    auto: Any = getattr(transformers, AUTO_CLASS[task_of(config)])
    model: PreTrainedModel = auto.from_config(config)
    return model


def _own_fields(config: type[PreTrainedConfig]) -> set[str]:
    inherited = {f.name for f in fields(PreTrainedConfig)}
    return {f.name for f in fields(config)} - inherited  # type: ignore[arg-type]


def _build(
    presets: Presets,
    what: str,
    preset: str,
    given: Mapping[str, Any],
    overrides: Mapping[str, Any] | None,
    more: tuple[str, ...] = (),
) -> Any:
    if preset not in presets:
        raise ConfigError(
            f"unknown {what} {preset!r}; known: {', '.join(presets)}.{nearest(preset, presets)}"
        )
    entry, overrides = presets.entry(preset), dict(overrides or {})
    fields = _own_fields(entry.config) | set(more)
    for key in overrides:
        if key not in fields:
            raise ConfigError(
                f"unknown model key {key!r} for {preset}.{nearest(key, fields)} "
                f"Known: {', '.join(sorted(fields))}."
            )
    with config_errors(preset):
        return entry.config(**entry.preset_fields({**given, **presets[preset]}, overrides))
