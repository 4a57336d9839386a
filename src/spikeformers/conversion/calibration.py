"""What flows into and out of each block's attention and feed-forward block, on real text.

One pass of the dense model over the calibration windows; per layer one safetensors file with
``attention.in``, ``attention.out``, ``mlp.in``, ``mlp.out`` ``[W, T, D]``, and one for all layers
with the rotary ``cos`` and ``sin`` ``[1, T, K]`` where the model has them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from spikeformers.errors import CheckpointError, DataError, StorageError
from spikeformers.foreign import foreign
from spikeformers.models._sources import watching

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Progress = Callable[[int, int], None]  # things done, things in all
ROTARY = "rotary.safetensors"


@dataclass(frozen=True)
class Sample:
    """One layer's activations; ``rotary`` is (cos, sin) or None."""

    attention_in: Tensor
    attention_out: Tensor
    mlp_in: Tensor
    mlp_out: Tensor
    rotary: tuple[Tensor, Tensor] | None


def collect(
    model: PreTrainedModel, windows: Tensor, folder: Path, progress: Progress | None = None
) -> None:
    """Run the dense ``model`` over ``windows`` ``[W, T]`` and write its activations, once.

    Raises ``DataError`` where they are not finite.
    """
    found: dict[str, list[Tensor]] = {}

    def keep(layer: int, part: str, x: Tensor, y: Tensor, given: Mapping[str, Any]) -> None:
        found.setdefault(f"{layer}.{part}.in", []).append(x.float().cpu())
        found.setdefault(f"{layer}.{part}.out", []).append(y.float().cpu())
        turned = given.get("position_embeddings")
        if turned is not None and "cos" not in found:
            found["cos"], found["sin"] = ([one.float().cpu()] for one in turned)

    with torch.no_grad(), watching(model, ("attention", "mlp"), keep):
        for number, window in enumerate(windows.split(1)):
            model(input_ids=window.to(model.device), use_cache=False)
            if progress is not None:
                progress(number + 1, len(windows))
    folder.mkdir(parents=True, exist_ok=True)
    rotary: dict[str, Tensor] = {k: found.pop(k)[0] for k in ("cos", "sin") if k in found}
    write_tensors(folder / ROTARY, rotary)
    for layer in range(model.config.num_hidden_layers):
        prefix = f"{layer}."
        tensors = {k.removeprefix(prefix): torch.cat(v) for k, v in found.items()
                   if k.startswith(prefix)}  # fmt: skip
        for name, tensor in tensors.items():
            if not bool(tensor.isfinite().all()):
                raise DataError(
                    f"block {layer}, {name}: the model's own activations are not finite on the "
                    "calibration text, so there is nothing to convert."
                )
        write_tensors(folder / _file(layer), tensors)


def read_sample(folder: Path, layer: int) -> Sample:
    """The activations of one layer."""
    shared, own = read_tensors(folder / ROTARY), read_tensors(folder / _file(layer))
    try:
        return Sample(
            own["attention.in"],
            own["attention.out"],
            own["mlp.in"],
            own["mlp.out"],
            (shared["cos"], shared["sin"]) if shared else None,
        )
    except KeyError as error:
        raise CheckpointError(f"{folder / _file(layer)} lacks {error}; delete {folder}.") from error


def is_collected(folder: Path, layers: int) -> bool:
    """Whether every file is there; each appears whole or not at all."""
    return all((folder / name).is_file() for name in (ROTARY, *map(_file, range(layers))))


def _file(layer: int) -> str:
    return f"layer-{layer:03d}.safetensors"


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file through a temporary name; StorageError where the disk refuses."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        save_file({key: one.contiguous() for key, one in tensors.items()}, temporary)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StorageError(
            f"could not write {path}: {error}. What was there is unchanged; free some space, or "
            "calibrate on fewer tokens."
        ) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file; CheckpointError where it is damaged."""
    advice = "Delete it, and --resume makes it anew."
    with (
        foreign(f"{path} cannot be read", advice=advice),
        safe_open(path, framework="pt") as file,
    ):
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
