"""What the weights say of a config before a model is built from it, and of themselves after.

A config of a million layers costs memory and time as soon as it is built, however small the file
beside it. So the numbers in ``config.json`` are held against the header of the weights first, then
the shapes of a model without memory (torch's "meta" device), and only then is a model made.
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
from transformers import initialization

from spikeformers.errors import CheckpointError
from spikeformers.foreign import foreign

Shapes = dict[str, tuple[int, ...]]

LAYERS = re.compile(r"(^|_)(layers?|blocks?|depth)$|block_count$")
SIZES = re.compile(
    r"(_size|_dim|_heads?|_embd|_inner|_channels|_experts|_labels|d_model|d_ff|d_kv)$"
    r"|(embedding|feed_forward|key|value)_length$|head_count(_kv)?$"
)
FEW_LAYERS, SMALL = 256, 1 << 16
"""Numbers up to these are built in a moment, so they are left to the comparison of shapes."""
LEEWAY = 1 << 24  # values that a model may have beyond twice those of its file, such as a new head
PIECE = 1 << 24  # values looked at at once


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
            with safe_open(file, framework="pt") as held:
                for name in held.keys():  # noqa: SIM118
                    shapes[name] = tuple(held.get_slice(name).get_shape())
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file} cannot be read: {error}.") from error
    return shapes


def check_numbers(source: Path, values: Mapping[str, Any], shapes: Shapes) -> None:
    """Raise CheckpointError for numbers that no model of these tensors has: layers, sizes, heads.

    ``values`` are those of ``source``, a config or the metadata of a GGUF file, as it was read.
    """
    tensors, largest = len(shapes), max((n for shape in shapes.values() for n in shape), default=0)
    for key, number in _numbers(values):
        if LAYERS.search(key) and number > max(tensors, FEW_LAYERS):
            held = f"{tensors:,} tensors"
        elif SIZES.search(key) and number > max(largest, SMALL):
            held = f"no tensor with more than {largest:,} values in a row"
        else:
            continue
        raise CheckpointError(
            f"{source}: {key} is {number:,}, and the weights beside it hold {held}, so they do not "
            "belong together. Put the matching file back."
        )


def _numbers(values: Any) -> Iterator[tuple[str, int]]:
    """Whole numbers with their keys, of nested configs too (the source of a converted model)."""
    for key, value in values.items():
        if type(value) is int:
            yield str(key), value
        elif isinstance(value, Mapping):
            yield from _numbers(value)


def check_shapes(folder: Path, auto: Any, config: Any) -> None:
    """Raise CheckpointError where the model of ``config`` cannot be that of the folder's weights.

    Names that differ are left to the loading, which knows of old names; so is a quantised model,
    whose tensors are packed. What is refused here is another shape, or a multiple of the weights.
    """
    if getattr(config, "quantization_config", None) is not None:
        return
    held = read_header(folder)
    with (
        foreign(f"{folder}: the model cannot be built"),
        torch.device("meta"),
        initialization.meta_device_safe_creation_ops(),
    ):
        model: Any = auto.from_config(config)
    prefix = f"{model.base_model_prefix}."
    wrong, missing = [], 0
    for name, tensor in model.state_dict().items():
        known = next(
            (n for n in (name, name.removeprefix(prefix), prefix + name) if n in held), None
        )
        if known is None:
            missing += tensor.numel()
        elif held[known] != tuple(tensor.shape):
            wrong.append(f"{known}: {list(held[known])}, not {list(tensor.shape)}")
    if wrong:
        raise CheckpointError(
            f"{folder}: model.safetensors does not belong to its config.json "
            f"({config.model_type}): {len(wrong)} of another shape (first: {min(wrong)}). Put the "
            "matching file back."
        )
    values = sum(map(math.prod, held.values()))
    if missing > 2 * values + LEEWAY:
        raise CheckpointError(
            f"{folder}: config.json describes a {config.model_type} with {missing:,} more weights "
            f"than the {values:,} that are there, so they do not belong together. Put the "
            "matching file back."
        )


def check_gguf(file: Path) -> None:
    """Raise CheckpointError for a GGUF file whose metadata are of no model of its tensors."""
    from gguf import GGUFReader

    try:
        reader = GGUFReader(file)
        shapes = {one.name: tuple(int(n) for n in one.shape) for one in reader.tensors}
        plain = {key: field.contents() for key, field in reader.fields.items()
                 if len(field.types) == 1 and not key.startswith("GGUF.")}  # fmt: skip
    except Exception as error:  # the reader trusts its file
        raise CheckpointError(
            f"{file} cannot be loaded as a causal model: it is not a whole GGUF file ({error!r})."
        ) from error
    check_numbers(file, plain, shapes)


def check_finite(model: nn.Module, source: str | Path) -> None:
    """Raise CheckpointError that names the first tensor of ``model`` with NaN or infinite values.

    ``source`` says where it came from.
    """
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        bad = sum(int((~piece.isfinite()).sum()) for piece in _pieces(tensor))
        if bad:
            hint = "A run that diverged, or a copy that broke, leaves such weights."
            if tensor.dtype == torch.float16:
                hint = "What fp16 cannot hold may be finite in bf16 or fp32."
            raise CheckpointError(
                f"{source}: {bad:,} of the {tensor.numel():,} values of {name} are NaN or "
                f"infinite, so nothing the model computes is worth anything. {hint}"
            )


def _pieces(tensor: Tensor) -> Iterator[Tensor]:
    flat = tensor.detach().reshape(-1)
    return iter(flat.split(PIECE))
