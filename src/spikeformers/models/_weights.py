"""Checks of a config against its weights before a model is built, and of the weights after.

A config of a million layers costs memory and time as soon as it is built, however small the file
beside it. So the numbers in ``config.json`` are compared with the header of the weights first, then
the shapes of a model without memory (torch's "meta" device), and only then is a model built.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import AutoConfig, initialization

from spikeformers.errors import CheckpointError
from spikeformers.foreign import foreign

Shapes = dict[str, tuple[int, ...]]

LAYERS = re.compile(r"(^|_)(layers?|blocks?|depth)$|block_count$")
SIZES = re.compile(
    r"(_size|_dim|_heads?|_embd|_inner|_channels|_experts|_labels|d_model|d_ff|d_kv)$"
    r"|(embedding|feed_forward|key|value)_length$|head_count(_kv)?$"
)
FEW_LAYERS, SMALL = 256, 1 << 16
"""Models of such sizes are built in a moment, so they are left to the comparison of shapes."""
LEEWAY = 1 << 24  # values that a model may have beyond twice those of its file, such as a new head
PIECE = 1 << 24  # values checked at once


def read_header(folder: Path) -> Shapes:
    """Names and shapes of the tensors that a model folder is loaded from."""
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    files = [whole]
    if not whole.is_file():
        files = sorted(folder.glob("*.safetensors"))
        if index.is_file():
            try:
                named = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise CheckpointError(f"{index} cannot be read: {error!r}.") from error
            files = [folder / Path(str(name)).name for name in named]
    shapes: Shapes = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118
                    shapes[name] = tuple(tensors.get_slice(name).get_shape())
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file} cannot be read: {error}.") from error
    return shapes


def check_numbers(source: Path, values: Mapping[str, Any], shapes: Shapes) -> None:
    """Raise CheckpointError for numbers of layers, sizes or heads that do not fit these tensors.

    ``values`` are those of ``source``, a config or the metadata of a GGUF file, as read.
    """
    tensors, largest = len(shapes), max((n for shape in shapes.values() for n in shape), default=0)
    for key, number in _numbers(values):
        if LAYERS.search(key) and number > max(tensors, FEW_LAYERS):
            contents = f"{tensors:,} tensors"
        elif SIZES.search(key) and number > max(largest, SMALL):
            contents = f"no tensor with more than {largest:,} values in a row"
        else:
            continue
        raise CheckpointError(
            f"{source}: {key} is {number:,}, and the weights beside it hold {contents}, so they do "
            "not belong together. Put the matching file back."
        )


def _numbers(values: Any) -> Iterator[tuple[str, int]]:
    """Integers with their keys, nested configs (the source of a converted model) included."""
    for key, value in values.items():
        if type(value) is int:
            yield str(key), value
        elif isinstance(value, Mapping):
            yield from _numbers(value)


def check_shapes(folder: Path, auto: Any, config: Any) -> None:
    """Raise CheckpointError if the model of ``config`` cannot have the folder's weights.

    Different names are left to the loading, which knows old names; so is a quantised model, whose
    tensors are packed. Refused here are other shapes, and far more weights than the folder has.
    """
    if getattr(config, "quantization_config", None) is not None:
        return
    stored = read_header(folder)
    with (
        foreign(f"{folder}: the model cannot be built"),
        torch.device("meta"),
        initialization.meta_device_safe_creation_ops(),
    ):
        model: Any = auto.from_config(config)
    prefix = f"{model.base_model_prefix}."
    wrong, missing = [], 0
    for name, tensor in model.state_dict().items():
        names = (name, name.removeprefix(prefix), prefix + name)
        stored_name = next((n for n in names if n in stored), None)
        if stored_name is None:
            missing += tensor.numel()
        elif stored[stored_name] != tuple(tensor.shape):
            wrong.append(f"{stored_name}: {list(stored[stored_name])}, not {list(tensor.shape)}")
    if wrong:
        raise CheckpointError(
            f"{folder}: model.safetensors does not belong to its config.json "
            f"({config.model_type}): {len(wrong)} of another shape (first: {min(wrong)}). Put the "
            "matching file back."
        )
    values = sum(map(math.prod, stored.values()))
    if missing > 2 * values + LEEWAY:
        raise CheckpointError(
            f"{folder}: config.json describes a {config.model_type} with {missing:,} more weights "
            f"than the {values:,} that are there, so they do not belong together. Put the "
            "matching file back."
        )


def read_gguf_config(file: Path) -> Any:
    """The config of a GGUF file, whose metadata are checked against its tensors before and after.

    Raises CheckpointError for a file that cannot be read, or whose tensors cannot be those of the
    model that it describes, with Transformers' default for whatever it leaves out.
    """
    from gguf import GGUFReader

    try:
        reader = GGUFReader(file)
        shapes = {
            tensor.name: tuple(int(length) for length in tensor.shape) for tensor in reader.tensors
        }
        numbers = {key: field.contents() for key, field in reader.fields.items()
                   if len(field.types) == 1 and not key.startswith("GGUF.")}  # fmt: skip
    except Exception as error:  # the reader trusts its file
        raise CheckpointError(
            f"{file} cannot be loaded as a causal model: it is not a whole GGUF file ({error!r})."
        ) from error
    check_numbers(file, numbers, shapes)
    config: Any = AutoConfig.from_pretrained(
        file.parent, gguf_file=file.name, trust_remote_code=False
    )
    blocks, width = config.num_hidden_layers, getattr(config, "hidden_size", 1)
    rows, size = getattr(config, "vocab_size", 0), file.stat().st_size
    if blocks > len(shapes) or rows * width > 8 * size:  # a value takes at least one bit
        raise CheckpointError(
            f"{file} describes {blocks:,} blocks and {rows:,} tokens of width {width:,}, "
            f"and holds {len(shapes):,} tensors in {size:,} bytes. It is damaged: copy it again."
        )
    return config


def check_finite(model: nn.Module, source: str | Path) -> None:
    """Raise CheckpointError that names the first tensor of ``model`` with NaN or infinite values.

    ``source`` names the model in the message.
    """
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        bad = sum(int((~piece.isfinite()).sum()) for piece in _pieces(tensor))
        if bad:
            hint = "A run that diverged, or a copy that broke, leaves such weights."
            if tensor.dtype == torch.float16:
                hint = "Values beyond the range of fp16 may be finite in bf16 or fp32."
            raise CheckpointError(
                f"{source}: {bad:,} of the {tensor.numel():,} values of {name} are NaN or "
                f"infinite, so nothing the model computes is meaningful. {hint}"
            )


def _pieces(tensor: Tensor) -> Iterator[Tensor]:
    flat = tensor.detach().reshape(-1)
    return iter(flat.split(PIECE))
