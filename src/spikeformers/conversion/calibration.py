"""Record the inputs and outputs of each block's attention and feed-forward block on real text.

One pass of the dense model over the calibration windows; per layer one safetensors file with
``attention.in``, ``attention.out``, ``mlp.in``, ``mlp.out`` ``[W, T, D]``, and one for all layers
with the rotary ``cos`` and ``sin`` ``[1, T, K]`` where the model has them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from spikeformers.errors import CheckpointError, DataError
from spikeformers.foreign import foreign
from spikeformers.models._sources import watching
from spikeformers.progress import Move, watched
from spikeformers.storage import digest_of, replacing

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROTARY = "rotary.safetensors"
DIGEST = "xxh3"  # key of a file's metadata

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """One layer's activations; ``rotary`` is (cos, sin) or None, ``mask`` the mask that its
    attention got, None if it is causal by itself.
    """

    attention_in: Tensor
    attention_out: Tensor
    mlp_in: Tensor
    mlp_out: Tensor
    rotary: tuple[Tensor, Tensor] | None
    mask: Tensor | None = None

    def replayed(self, module: nn.Module, part: str) -> tuple[Tensor, Tensor]:
        """Output of the "mlp" or "attention" ``module`` on these inputs, and the dense one's."""
        if part == "mlp":
            return module(self.mlp_in), self.mlp_out
        rotary = {} if self.rotary is None else {"position_embeddings": self.rotary}
        output = module(self.attention_in, attention_mask=self.mask, **rotary)[0]
        return output, self.attention_out


def collect(
    model: PreTrainedModel, windows: Tensor, folder: Path, progress: Move | None = None
) -> None:
    """Run the dense ``model`` over ``windows`` ``[W, T]`` and write its activations, once.

    Raises ``DataError`` if they are not finite.
    """
    recorded: dict[str, list[Tensor]] = {}

    def keep(layer: int, part: str, x: Tensor, y: Tensor, given: Mapping[str, Any]) -> None:
        recorded.setdefault(f"{layer}.{part}.in", []).append(x.float().cpu())
        recorded.setdefault(f"{layer}.{part}.out", []).append(y.float().cpu())
        if part == "attention" and len(recorded[f"{layer}.attention.in"]) == 1:
            keep_shared(layer, given)

    def keep_shared(layer: int, given: Mapping[str, Any]) -> None:
        """Keep what all windows share: positions, once unless a layer has its own, and masks."""
        if given.get("attention_mask") is not None:
            recorded[f"{layer}.mask"] = [given["attention_mask"].cpu()]
        positions = given.get("position_embeddings")
        if positions is None:
            return
        cos, sin = (tensor.float().cpu() for tensor in positions)
        if "cos" not in recorded:
            recorded["cos"], recorded["sin"] = [cos], [sin]
        elif not torch.equal(cos, recorded["cos"][0]):
            recorded[f"{layer}.cos"], recorded[f"{layer}.sin"] = [cos], [sin]

    with torch.no_grad(), watching(model, ("attention", "mlp"), keep):
        for window in watched(windows.split(1), progress):
            model(input_ids=window.to(model.device), use_cache=False)
    folder.mkdir(parents=True, exist_ok=True)
    rotary: dict[str, Tensor] = {k: recorded.pop(k)[0] for k in ("cos", "sin") if k in recorded}
    write_tensors(folder / ROTARY, rotary)
    for layer in range(model.config.num_hidden_layers):
        prefix = f"{layer}."
        tensors = {k.removeprefix(prefix): torch.cat(v) for k, v in recorded.items()
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
    positions = own if "cos" in own else shared
    try:
        return Sample(
            own["attention.in"],
            own["attention.out"],
            own["mlp.in"],
            own["mlp.out"],
            (positions["cos"], positions["sin"]) if positions else None,
            own.get("mask"),
        )
    except KeyError as error:
        raise CheckpointError(f"{folder / _file(layer)} lacks {error}; delete {folder}.") from error


def is_collected(folder: Path, layers: int) -> bool:
    """Whether every file exists and is undamaged; a warning names a damaged one."""
    return all(is_whole(folder / name) for name in (ROTARY, *map(_file, range(layers))))


def is_whole(path: Path) -> bool:
    """Whether ``path`` was written by `write_tensors` and is unchanged; a warning if it was."""
    if not path.is_file():
        return False
    try:
        read_tensors(path)
    except CheckpointError as error:
        logger.warning("%s It is recorded again.", error)
        return False
    return True


def _file(layer: int) -> str:
    return f"layer-{layer:03d}.safetensors"


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file atomically, with its digest; errors as in `storage.replacing`."""
    contiguous = {key: tensor.contiguous() for key, tensor in tensors.items()}
    with replacing(path) as temporary:
        try:
            save_file(contiguous, temporary, {DIGEST: _digest(contiguous)})
        except SafetensorError as error:  # a full disk, among others
            raise OSError(str(error)) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file; CheckpointError if it is damaged."""
    advice = "Delete it; --resume then writes it again."
    with (
        foreign(f"{path} is damaged", advice=advice),
        safe_open(path, framework="pt") as file,
    ):
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        digest = (file.metadata() or {}).get(DIGEST)
    if digest != _digest(tensors):
        reason = "it has no digest" if digest is None else "its content is not what was written"
        raise CheckpointError(f"{path} is damaged ({reason}).")
    return tensors


def _digest(tensors: Mapping[str, Tensor]) -> str:
    def parts() -> Iterator[Any]:
        for name, tensor in sorted(tensors.items()):
            yield f"{name} {tensor.dtype} {list(tensor.shape)}".encode()
            yield tensor.flatten().view(torch.uint8).numpy().data

    return digest_of(parts())
