"""Checkpoints: weights and optimiser state, sharded by rank, loadable in any world size.

``torch.distributed.checkpoint`` with its safetensors reader and writer: nothing here is a pickle.
A checkpoint is a folder ``step-0000100`` with ``checkpoint.json`` (step, and sizes and SHA-256 of
all files) and one ``shard-*.safetensors`` per rank. It is written under a temporary name and
renamed when complete. A checkpoint that was damaged later is renamed and skipped by a resume.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
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
from spikeformers.training.optim import new_state

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
RECORD: dict[str, Any] = {
    "step": int,
    "tokens_seen": int,
    "seconds": float,
    "optimizer_steps": dict[str, int],
    "files": dict[str, dict[str, Any]],
}
"""Keys of checkpoint.json beside its version, and their types; each file has those of SHARD."""
SHARD: dict[str, Any] = {"bytes": int, "sha256": str}
STEP_FOLDER = re.compile(r"step-(\d{7,})")
TEMPORARY = ".tmp-"
SET_ASIDE = "damaged-"


class DamagedCheckpoint(CheckpointError):
    """A checkpoint of this format in which something is missing, cut off or altered."""


@dataclass
class TrainState:
    """The state of a run beside weights and optimiser; the sampler is a function of it."""

    step: int = 0
    tokens_seen: int = 0
    seconds: float = 0.0  # of training steps only
    optimizer_steps: dict[str, int] = field(default_factory=dict)  # if different from `step`


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints in ``folder``, oldest first."""
    return [path for path in step_folders(folder) if (path / "checkpoint.json").is_file()]


def step_folders(folder: Path) -> list[Path]:
    """All folders named like a checkpoint in ``folder``, complete or damaged, oldest first."""
    numbered = [
        (int(match[1]), path)
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (match := STEP_FOLDER.fullmatch(path.name))
    ]
    return [path for _, path in sorted(numbered)]


@dataclass(frozen=True)
class Draft:
    """A checkpoint that is being written into ``temporary``, to become ``final``."""

    final: Path
    temporary: Path
    world: World

    @classmethod
    def of(cls, folder: Path, step: int, world: World) -> Draft:
        """The draft of the checkpoint of ``step`` in ``folder``."""
        final = folder / f"step-{step:07d}"
        return cls(final, folder / f"{TEMPORARY}{final.name}", world)

    def open(self) -> None:
        """Make the folder, and remove what earlier drafts left. Every rank calls this."""
        with self.errors():
            if self.world.is_main:
                for leftover in self.final.parent.glob(f"{TEMPORARY}*"):
                    shutil.rmtree(leftover)
                self.temporary.mkdir(parents=True)

    def writer(self) -> HuggingFaceStorageWriter:
        """What writes this rank's tensors."""
        return HuggingFaceStorageWriter(str(self.temporary), save_distributed=True)

    def publish(self, state: TrainState, steps: Mapping[str, int], keep: int) -> None:
        """Write the record and rename the folder, when all ranks have written; rank 0 only."""
        state.optimizer_steps = {n: count for n, count in steps.items() if count != state.step}
        files = {path.name: _fingerprint(path) for path in _shards(self.temporary)}
        record = {"format_version": FORMAT_VERSION, **asdict(state), "files": files}
        record["sha256"] = _record_digest(record)
        _write_durably(self.temporary / "checkpoint.json", json.dumps(record, indent=2))
        if self.final.exists():
            shutil.rmtree(self.final)
        os.replace(self.temporary, self.final)
        _prune(self.final.parent, keep)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn a refused write, on any rank, into a ``StorageError`` on every rank."""
        refused: OSError | None = None
        try:
            yield
        except OSError as error:
            refused = error
        except CheckpointException as error:
            causes = [cause for cause, _ in error.failures.values()]
            refused = next((cause for cause in causes if isinstance(cause, OSError)), None)
            if refused is None:  # not an error of the disk: a second Ctrl-C, or a bug
                raise causes[0] from error
        if self.world.any(refused is not None):
            if self.world.is_main:
                shutil.rmtree(self.temporary, ignore_errors=True)
            earlier = checkpoints(self.final.parent)
            raise StorageError(
                f"Could not write the checkpoint {self.final}: "
                f"{refused or 'another process failed'}. "
                + (f"The last good one is {earlier[-1]}." if earlier else "No earlier one exists.")
                + " Free some space and resume."
            ) from refused


def save_checkpoint(
    folder: Path,
    state: TrainState,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    world: World,
    *,
    keep: int,
) -> Path:
    """Write ``folder/step-N`` and delete all but the newest ``keep``. Every rank calls this.

    Raises ``StorageError`` if the disk refuses; earlier checkpoints are unchanged.
    """
    draft = Draft.of(folder, state.step, world)
    draft.open()
    with draft.errors():
        tensors, steps = saved_tensors(model, optimizer)
        with _quiet():
            dcp.save(
                tensors,
                storage_writer=draft.writer(),
                process_group=world.group,
                no_dist=world.size == 1,
            )
    with draft.errors():
        if world.is_main:
            draft.publish(state, steps, keep)
    return draft.final


def load_newest(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, world: World
) -> TrainState:
    """Load the newest valid checkpoint of ``folder``, as `load_checkpoint`. Every rank calls this.

    Newer ones that are damaged are named in a warning and renamed to ``damaged-step-...``. Raises
    ``CheckpointError`` if there is no valid one.
    """
    damaged: dict[Path, str] = {}
    for path in reversed(step_folders(folder)):
        try:
            record, reason = read_record(path), ""
        except DamagedCheckpoint as error:
            record, reason = {}, str(error)
        if not world.any(bool(reason)):
            if world.is_main:
                _set_aside(damaged, path)
            return _load(path, record, model, optimizer, world)
        damaged[path] = reason or f"Damaged checkpoint: another process cannot read {path}."
    raise CheckpointError(
        f"No checkpoint in {folder} is whole, so there is nothing to resume: "
        f"{' '.join(damaged.values())} Start again with another output folder."
    )


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, world: World
) -> TrainState:
    """Load ``path`` into ``model`` and ``optimizer``, in place. Every rank calls this.

    Raises ``CheckpointError`` (missing, truncated, altered, of another model).
    """
    return _load(path, read_record(path), model, optimizer, world)


def _load(
    path: Path,
    record: Mapping[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    world: World,
) -> TrainState:
    state = TrainState(**{key: record[key] for key in asdict(TrainState())})
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and state.optimizer_steps.get(name, 1):
            steps = state.optimizer_steps.get(name, state.step)
            optimizer.state[parameter] = new_state(optimizer, parameter, steps)
    tensors, _ = saved_tensors(model, optimizer)
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
    """The checked ``checkpoint.json`` of ``path``: every file has its size and SHA-256.

    Raises ``DamagedCheckpoint``, or ``CheckpointError`` for another version's format.
    """
    file = path / "checkpoint.json"
    try:
        record = read_json(file, needed={"format_version": int})
        version = record["format_version"]
        if version == FORMAT_VERSION:
            _check_record(file, record)
    except CheckpointError as error:
        raise DamagedCheckpoint(f"Damaged checkpoint: {error}") from error
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} is of checkpoint format {version}; this version reads format {FORMAT_VERSION}."
        )
    for name, expected in record["files"].items():
        _check_shard(path / name, expected)
    if strangers := [p.name for p in _shards(path) if p.name not in record["files"]]:
        raise DamagedCheckpoint(_damaged(path / strangers[0], "not a part of this checkpoint"))
    return record


def _check_record(file: Path, record: Mapping[str, Any]) -> None:
    """Raise CheckpointError unless a record is complete and belongs to this checkpoint."""
    check_object(record, RECORD, file)
    for name, expected in record["files"].items():
        check_object(expected, SHARD, f"the entry {name!r} of {file}")
    reason = ""
    if "sha256" in record and record["sha256"] != _record_digest(record):
        reason = "is altered in its content (SHA-256 differs)"
    elif record["step"] != int(file.parent.name.rpartition("-")[2]):
        reason = f"is of step {record['step']}"
    elif min(record["step"], record["tokens_seen"], *record["optimizer_steps"].values(), 0) < 0:
        reason = "has a negative count"
    elif not record["files"]:
        reason = "names no file"
    elif strange := [name for name in record["files"] if Path(name).name != name]:
        reason = f"names a file elsewhere ({strange[0]!r})"
    if reason:
        raise CheckpointError(f"{file} {reason}.")


def _record_digest(record: Mapping[str, Any]) -> str:
    content = {key: value for key, value in record.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _check_shard(file: Path, expected: Mapping[str, Any]) -> None:
    try:
        if (size := file.stat().st_size) != expected["bytes"]:
            reason = f"{size} bytes instead of {expected['bytes']}"
            raise DamagedCheckpoint(_damaged(file, reason))
        if _fingerprint(file) != expected:
            reason = "altered in its content (SHA-256 differs)"
            raise DamagedCheckpoint(_damaged(file, reason))
    except FileNotFoundError as error:
        raise DamagedCheckpoint(_damaged(file, "missing")) from error
    except OSError as error:
        raise DamagedCheckpoint(_damaged(file, f"unreadable: {_why(error)}")) from error


def _set_aside(damaged: Mapping[Path, str], valid: Path) -> None:
    """Rename damaged checkpoints, so that none is taken for the newest, and warn."""
    for path, reason in damaged.items():
        aside = path.with_name(SET_ASIDE + path.name)
        try:
            if aside.is_dir():
                shutil.rmtree(aside)
            os.replace(path, aside)
        except OSError as error:
            raise StorageError(f"{reason} It cannot be renamed: {_why(error)}.") from error
        logger.warning(
            "%s Resuming from %s instead; the damaged one is kept as %s, and may be deleted.",
            reason,
            valid.name,
            aside,
        )


def saved_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
    """Name -> tensor (sharing memory) of everything saved, and the optimiser's step counts."""
    reshard(model)
    tensors: dict[str, torch.Tensor] = {}
    steps: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        tensors[f"model.{name}"] = parameter.detach()
        state = optimizer.state.get(parameter, {})
        if parameter.requires_grad and (not state or "step" in state):
            steps[name] = int(state["step"]) if state else 0
        moments = {key: value for key, value in state.items() if key != "step"}
        tensors |= {f"optimizer.{name}.{moment}": value for moment, value in moments.items()}
    persistent = set(model.state_dict())
    for name, buffer in model.named_buffers():
        if name in persistent:
            tensors[f"model.{name}"] = buffer.detach()
    return {n: t.view(1) if t.ndim == 0 else t for n, t in tensors.items()}, steps


def _damaged(file: Path, problem: str) -> str:
    return f"Damaged checkpoint: {file} is {problem}."


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or (
        f"{error} is missing" if isinstance(error, KeyError) else str(error)
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
        os.replace(old, doomed)  # a partly deleted checkpoint must not look complete
        shutil.rmtree(doomed)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the warning that torch.distributed is disabled in a single process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield
