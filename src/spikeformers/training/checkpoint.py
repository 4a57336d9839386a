"""Checkpoints: weights and optimiser state, sharded by rank, loadable in any world size.

``torch.distributed.checkpoint`` with its safetensors reader and writer: nothing here is a pickle.
A checkpoint is a folder ``step-0000100`` with ``checkpoint.json`` (step, sizes, SHA-256) and one
``shard-*.safetensors`` a rank. It is written under a temporary name and renamed when complete.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)

from spikeformers.errors import CheckpointError, StorageError
from spikeformers.foreign import check_object, read_json
from spikeformers.training.distributed import World, reshard

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
MOMENTS = ("exp_avg", "exp_avg_sq")
RECORD: dict[str, Any] = {
    "step": int,
    "tokens_seen": int,
    "seconds": float,
    "optimizer_steps": dict[str, int],
    "files": dict[str, dict],
}
"""Keys of checkpoint.json beside its version, and what their values are; of a file, SHARD."""
SHARD: dict[str, Any] = {"bytes": int, "sha256": str}
STEP_FOLDER = re.compile(r"step-(\d{7,})")
TEMPORARY = ".tmp-"


@dataclass
class TrainState:
    """All that a run remembers beside weights and optimiser: the sampler is a function of it."""

    step: int = 0
    tokens_seen: int = 0
    seconds: float = 0.0  # of training steps alone
    optimizer_steps: dict[str, int] = field(default_factory=dict)  # where it is not `step`


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints in ``folder``, oldest first."""
    found = [
        (int(match[1]), path)
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (match := STEP_FOLDER.fullmatch(path.name)) and (path / "checkpoint.json").is_file()
    ]
    return [path for _, path in sorted(found)]


def save_checkpoint(
    folder: Path,
    state: TrainState,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    world: World,
    *,
    keep: int,
) -> Path:
    """Write ``folder/step-N`` and drop all but the newest ``keep``. Every rank calls this.

    Raises ``StorageError`` when the disk refuses; earlier checkpoints are untouched.
    """
    final = folder / f"step-{state.step:07d}"
    temporary = folder / f"{TEMPORARY}{final.name}"
    with _storage_errors(final, temporary, world):
        if world.is_main:
            for leftover in folder.glob(f"{TEMPORARY}*"):
                shutil.rmtree(leftover)
            temporary.mkdir(parents=True)
    with _storage_errors(final, temporary, world):
        tensors, steps = _tensors(model, optimizer)
        with _quiet():
            dcp.save(
                tensors,
                storage_writer=HuggingFaceStorageWriter(str(temporary), save_distributed=True),
                process_group=world.group,
                no_dist=world.size == 1,
            )
    with _storage_errors(final, temporary, world):
        if world.is_main:
            state.optimizer_steps = {n: count for n, count in steps.items() if count != state.step}
            files = {path.name: _fingerprint(path) for path in _shards(temporary)}
            record = {"format_version": FORMAT_VERSION, **asdict(state), "files": files}
            _write_durably(temporary / "checkpoint.json", json.dumps(record, indent=2))
            if final.exists():
                shutil.rmtree(final)
            os.replace(temporary, final)
            _prune(folder, keep)
    return final


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, world: World
) -> TrainState:
    """Load ``path`` into ``model`` and ``optimizer``, in place. Every rank calls this.

    Raises ``CheckpointError`` (missing, truncated, altered, of another model).
    """
    record = read_record(path)
    state = TrainState(**{key: record[key] for key in asdict(TrainState())})
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and state.optimizer_steps.get(name, 1):
            steps = state.optimizer_steps.get(name, state.step)
            optimizer.state[parameter] = {
                "step": torch.tensor(float(steps), device=parameter.device),
                **{moment: torch.zeros_like(parameter) for moment in MOMENTS},
            }
    tensors, _ = _tensors(model, optimizer)
    reader = HuggingFaceStorageReader(str(path))
    stored = reader.read_metadata().state_dict_metadata
    shapes = {name: getattr(entry, "size", None) for name, entry in stored.items()}
    strange = sorted(set(shapes) ^ set(tensors)) or sorted(
        name for name, tensor in tensors.items() if tensor.shape != shapes[name]
    )
    if strange:
        raise CheckpointError(
            f"{path} belongs to another model: {strange[0]!r} and {len(strange) - 1} other "
            "tensors differ. Resume with the model that the run began with."
        )
    with _quiet():
        dcp.load(tensors, storage_reader=reader, process_group=world.group, no_dist=world.size == 1)
    return state


def read_record(path: Path) -> dict[str, Any]:
    """The checked ``checkpoint.json`` of ``path``: every file has its size and SHA-256."""
    place = path / "checkpoint.json"
    try:
        record = read_json(place, needed={"format_version": int})
        if record["format_version"] == FORMAT_VERSION:
            check_object(record, RECORD, place)
            for name, expected in record["files"].items():
                check_object(expected, SHARD, f"the entry {name!r} of {place}")
    except CheckpointError as error:
        raise CheckpointError(f"Damaged checkpoint: {error} {_advice(path)}") from error
    if record["format_version"] != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} is of checkpoint format {record['format_version']}; this version reads "
            f"format {FORMAT_VERSION}."
        )
    files: dict[str, dict[str, Any]] = record["files"]
    there = {one.name for one in path.iterdir()}
    for name, expected in files.items():
        file = path / name
        if name not in there or not file.is_file():
            raise CheckpointError(_damaged(file, "missing"))
        if (size := file.stat().st_size) != expected["bytes"]:
            raise CheckpointError(_damaged(file, f"{size} bytes instead of {expected['bytes']}"))
        if _fingerprint(file) != expected:
            raise CheckpointError(_damaged(file, "altered (its SHA-256 differs)"))
    if strangers := [p.name for p in _shards(path) if p.name not in files]:
        raise CheckpointError(_damaged(path / strangers[0], "not a part of this checkpoint"))
    return record


def _tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
    """Name -> tensor (sharing memory) for all that is saved, and the optimiser's step counts."""
    reshard(model)
    tensors: dict[str, torch.Tensor] = {}
    steps: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        tensors[f"model.{name}"] = parameter.detach()
        state = optimizer.state.get(parameter, {})
        if parameter.requires_grad:
            steps[name] = int(state["step"]) if state else 0
        if state:
            tensors |= {f"optimizer.{name}.{moment}": state[moment] for moment in MOMENTS}
    persistent = set(model.state_dict())
    for name, buffer in model.named_buffers():
        if name in persistent:
            tensors[f"model.{name}"] = buffer.detach()
    return {n: t.view(1) if t.ndim == 0 else t for n, t in tensors.items()}, steps


def _damaged(file: Path, what: str) -> str:
    return f"Damaged checkpoint: {file} is {what}. {_advice(file.parent)}"


def _advice(folder: Path) -> str:
    others = [path for path in checkpoints(folder.parent) if path != folder]
    return (
        f"Remove {folder} to continue from {others[-1].name}."
        if others
        else "There is no other checkpoint in this run: begin anew with another output folder."
    )


def _shards(path: Path) -> list[Path]:
    return sorted(path.glob("*.safetensors"))


def _fingerprint(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def _write_durably(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())


def _prune(folder: Path, keep: int) -> None:
    for old in checkpoints(folder)[:-keep]:
        doomed = folder / f"{TEMPORARY}{old.name}"
        os.replace(old, doomed)  # so that one half removed never looks complete
        shutil.rmtree(doomed)


@contextmanager
def _storage_errors(final: Path, temporary: Path, world: World) -> Iterator[None]:
    """Turn a refused write, on any rank, into a ``StorageError`` on every rank."""
    refused: OSError | None = None
    try:
        yield
    except OSError as error:
        refused = error
    except CheckpointException as error:
        causes = [cause for cause, _ in error.failures.values()]
        refused = next((cause for cause in causes if isinstance(cause, OSError)), None)
        if refused is None:  # a second Ctrl-C, or a mistake of ours: not the disk's doing
            raise causes[0] from error
    if world.any(refused is not None):
        if world.is_main:
            shutil.rmtree(temporary, ignore_errors=True)
        kept = checkpoints(final.parent)
        raise StorageError(
            f"Could not write the checkpoint {final}: "
            f"{refused or 'another process failed'}. "
            + (f"The last good one is {kept[-1]}." if kept else "No earlier one exists.")
            + " Free some space and resume."
        ) from refused


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warning that a single process is a single process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield
