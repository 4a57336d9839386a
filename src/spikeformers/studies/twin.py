"""The dense model that a spiking one is measured beside."""

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
READ_AT_MOST = (
    ("words", "vocab_size"),
    ("positions", "max_position_embeddings"),
    ("pixels per side", "image_size"),
)


def twin_of(config: Any, control: str | Path | None = None) -> tuple[Any, str | None]:
    """The dense twin of a config, and whose weights it has: ``control`` is its folder.

    Without one it is built with fresh weights (seed 0, `FRESH`): what a dense model costs does not
    depend on them. (None, None) for a dense model. Raises UsageError for a control that spikes, or
    that cannot read what the model reads.
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
    """UsageError for a control that cannot read what the model reads, or that spikes."""
    mine, theirs = ("images" if is_vision(each) else "text" for each in (config, dense.config))
    if mine != theirs:
        raise UsageError(
            f"--control {folder} reads {theirs}, and the model reads {mine}. Name a dense "
            "model of the same kind, or leave --control out for a fresh twin."
        )
    if neuron_names(dense):
        raise UsageError(
            f"--control {folder} spikes ({type(dense).__name__}); it must be a dense model. "
            "Give both as MODEL to see them side by side."
        )
    for what, key in READ_AT_MOST:
        own, its = (getattr(each, key, None) for each in (config, dense.config))
        if own is not None and its is not None and its < own:
            raise UsageError(
                f"--control {folder} takes {its:,} {what}, fewer than the {own:,} of the model, "
                "so the two are no twins. Leave --control out for a fresh one."
            )
