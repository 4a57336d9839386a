"""The dense model that a spiking one is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from spikeformers.energy import neuron_names
from spikeformers.errors import UsageError
from spikeformers.models import build_model, control_of
from spikeformers.models.control import has_control
from spikeformers.models.loading import load_weights
from spikeformers.models.registry import is_vision

FRESH = "fresh"
LIMITS = (
    ("words", "vocab_size"),
    ("positions", "max_position_embeddings"),
    ("pixels per side", "image_size"),
)


def twin_of(config: Any, control: str | Path | None = None) -> tuple[Any, str | None]:
    """The dense twin of a config and the origin of its weights: the folder ``control``, or `FRESH`.

    Without ``control`` it is built with new weights (seed 0), because a dense model's cost does not
    depend on them. (None, None) for a dense model. Raises UsageError for a control that spikes, or
    that cannot read the model's input.
    """
    if control is not None:
        dense = load_weights(Path(control))
        check_control(config, dense, control)
        return dense, str(control)
    torch.manual_seed(0)
    if not has_control(config):
        return None, None
    return build_model(control_of(config)).eval(), FRESH


def check_control(config: Any, dense: Any, folder: str | Path) -> None:
    """Raise UsageError for a control that cannot read the model's input, or that spikes."""
    model_input, control_input = (
        "images" if is_vision(each) else "text" for each in (config, dense.config)
    )
    if model_input != control_input:
        raise UsageError(
            f"--control {folder} reads {control_input}, and the model reads {model_input}. "
            "Name a dense model of the same kind, or leave --control out for a new twin."
        )
    if neuron_names(dense):
        raise UsageError(
            f"--control must be a dense model; {folder} is spiking ({type(dense).__name__}). "
            "Give both as MODEL to see them side by side."
        )
    for title, key in LIMITS:
        needed, limit = (getattr(each, key, None) for each in (config, dense.config))
        if needed is not None and limit is not None and limit < needed:
            raise UsageError(
                f"--control {folder} takes {limit:,} {title}, fewer than the model's {needed:,}, "
                "so it is not a twin of the model. Leave --control out for a new one."
            )
