"""Load the dense model to convert, and the text it is calibrated on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from spikeformers.errors import ConfigError, DataError
from spikeformers.models._sources import source_of
from spikeformers.models.loading import check_folder, read_config
from spikeformers.models.reference import load_reference

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from spikeformers.data import TokenSplit


def load_source(name: str, gguf_file: str = "") -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """The causal model called ``name`` (a folder or a hub name) in float32, and its tokenizer.

    The weights of a GGUF file are dequantised. Raises ConfigError for an architecture that has no
    conversion, a quantised model, or a spiking model; otherwise as ``load_reference``.
    """
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file() and not gguf_file:
        check_folder(folder)
        refuse(read_config(folder), name)  # before any weight is read
    model, tokenizer = load_reference(name, gguf_file=gguf_file, dtype="fp32")
    refuse(model.config, name)
    return model, tokenizer


def refuse(config: Any, name: str) -> None:
    """Raise ConfigError for a model that cannot be converted, whatever its weights."""
    if getattr(config, "spiking", False):
        raise ConfigError(f"{name} is a spiking model ({config.model_type}) already.")
    if getattr(config, "quantization_config", None) is not None:
        raise ConfigError(
            f"{name} is quantised, and a conversion needs the real weights. Convert the model "
            "that it was quantised from."
        )
    source_of(config.model_type)


def calibration_windows(split: TokenSplit, context: int, tokens: int) -> Tensor:
    """About ``tokens`` ids of the split as windows ``[W, context]``, spread evenly over it."""
    if tokens < 1:
        raise ConfigError(f"calibration needs at least 1 token, not {tokens}.")
    if split.num_tokens < 2:
        raise DataError(f"the {split.name} text is too short to calibrate on.")
    context = min(context, split.num_tokens)
    windows = max(1, min(round(tokens / context), split.num_tokens // context))
    starts = np.linspace(0, split.num_tokens - context, windows).astype(np.int64)
    ids = split.tokens[starts[:, None] + np.arange(context)].astype(np.int64)
    return torch.from_numpy(ids)
