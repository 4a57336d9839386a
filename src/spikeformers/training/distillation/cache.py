"""The teacher's outputs on disk: computed once for each window of text, then read.

    FOLDER/manifest.json       whose outputs these are: teacher, text, context, device kind
           writer-000.lock     held by the one process that writes the files 000
           head/000.rows       one row a window: what goes into the teacher's head, [T, D]
           head/000.starts     per row two int64: where in the split its window begins, its XXH3
           embedding/ hidden-8/ attention-8/ ...

Windows are keyed by where they begin, so runs of any seed share a cache, and so do runs that lack
a term. Logits are not stored, the head makes them again: a cached run has the losses of one that
is not, bit for bit where both run the teacher on the same micro-batches in the same precision.

Rows are flushed to the disk before their starts are, and a row without a start counts for nothing:
a process that dies loses its last few windows, never their truth. A row that does not match its
digest is named in a warning and computed anew. Several processes (ranks, or
runs side by side) write files of their own and read all that was there when they began.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import itertools
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spikeformers.data.store import default_cache_dir
from spikeformers.errors import ConfigError, StorageError
from spikeformers.foreign import read_json
from spikeformers.storage import row_digest
from spikeformers.training.distillation.teacher import Needs, Teacher, TeacherOutput

FORMAT_VERSION = 2  # 1 had no digests
START = np.dtype([("start", "<i8"), ("xxh3", "<u8")])
COMMIT_EVERY = 64  # windows between two flushes to the disk

logger = logging.getLogger(__name__)


class TeacherCache:
    """``cache(ids, starts)`` is ``teacher(ids, needs)`` for the windows that begin at ``starts``.

    ``where`` is a folder, or "auto" for one named by ``identity`` beside the token stores. Raises
    ``ConfigError`` for a folder with other outputs, ``StorageError`` for a disk that refuses.
    """

    def __init__(
        self, where: str, teacher: Teacher, needs: Needs, identity: Mapping[str, Any], context: int
    ) -> None:
        self.teacher, self.needs, self._uncommitted = teacher, needs, 0
        named = {**identity, "context": context, "format_version": FORMAT_VERSION}
        self.folder = _folder(where, named)
        ids = torch.zeros(1, context, dtype=torch.long, device=teacher.model.device)
        self.names, rows = self._probe(ids)
        self.window_bytes = sum(row.nbytes for row in rows.values())
        with _storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            _claim(self.folder, named)
            self._lock, writer = _writer(self.folder)
            self.parts = {
                name: Rows(self.folder / name, row[0], writer) for name, row in rows.items()
            }

    def _probe(self, ids: Tensor) -> tuple[TeacherOutput, dict[str, Tensor]]:
        """Names of the parts, laid out as an output is, and one row of each."""
        needs, teacher = self.needs, self.teacher
        out, head = teacher.with_head_input(ids, needs)
        if out.logits is not None and not torch.equal(teacher.logits(head), out.logits):
            raise ConfigError(
                f"{type(teacher.model).__name__} does more to its logits than its head does, so "
                "they cannot be made again from a cache. Leave cache_teacher out."
            )
        rows: dict[str, Tensor] = {"head": head} if needs.logits else {}
        features: list[Any] = []
        for layer, tensor in zip(needs.layers, out.features or (), strict=False):
            same = needs.logits and tensor.dtype == head.dtype and torch.equal(tensor, head)
            features.append("head" if same else f"hidden-{layer}")  # the last one: once is enough
            rows[features[-1]] = tensor
        maps: list[Any] = []
        for layer, tensor in zip(needs.layers, out.attentions or (), strict=False):
            maps.append(f"attention-{layer}")
            rows[maps[-1]] = tensor
        if out.embedding is not None:
            rows["embedding"] = out.embedding
        layout: Any = TeacherOutput(
            "embedding" if needs.embedding else None,  # type: ignore[arg-type]
            tuple(maps) if needs.attentions else None,
            tuple(features) if needs.features else None,
            "head" if needs.logits else None,  # type: ignore[arg-type]
        )
        return layout, rows

    def plan(self, starts: Iterable[int]) -> str:
        """Say what these windows will add; ``StorageError`` where the disk lacks the room."""
        wanted = {int(start) for start in starts}
        missing = {start for part in self.parts.values() for start in wanted - part.index.keys()}
        size, free = len(missing) * self.window_bytes, shutil.disk_usage(self.folder).free
        told = (
            f"teacher cache {self.folder}: {len(wanted) - len(missing):,} of {len(wanted):,} "
            f"windows are there; the others take {_bytes(size)} ({_bytes(self.window_bytes)} "
            f"each), {_bytes(free)} are free"
        )
        if size > free:
            raise StorageError(
                f"{told}. Leave cache_teacher out, name a folder on another disk, train fewer "
                "steps, or leave out the terms that need most (saa, sfa)."
            )
        return told

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, starts: NDArray[Any]) -> TeacherOutput:
        """The teacher's outputs for ``[B, T]`` ids, from the disk if every window is there."""
        wanted = [int(start) for start in starts]
        rows = self._read(wanted, input_ids.device)
        if rows is None:
            return self._compute(input_ids, wanted)
        names = self.names
        return TeacherOutput(
            rows["embedding"] if names.embedding is not None else None,
            _pick(rows, names.attentions),
            _pick(rows, names.features),
            self.teacher.logits(rows["head"]) if names.logits is not None else None,
        )

    def _read(self, wanted: list[int], device: torch.device) -> dict[str, Tensor] | None:
        """The rows of each part; None where one is missing, or damaged and has to be made anew."""
        if any(start not in part.index for part in self.parts.values() for start in wanted):
            return None
        with _storage_errors(self.folder):
            read = {name: [part.read(s) for s in wanted] for name, part in self.parts.items()}
        damaged = [name for name, found in read.items() if any(row is None for row in found)]
        if damaged:
            logger.warning(
                "teacher cache %s: %s of a window at one of %s is not what was written; it is "
                "computed anew",
                self.folder,
                ", ".join(damaged),
                wanted,
            )
            return None
        return {
            n: torch.stack([r for r in rs if r is not None]).to(device) for n, rs in read.items()
        }

    def _compute(self, input_ids: Tensor, starts: list[int]) -> TeacherOutput:
        out, head = self.teacher.with_head_input(input_ids, self.needs)
        tensors: dict[str, Tensor] = {}
        for field in ("attentions", "features"):
            names, values = getattr(self.names, field), getattr(out, field)
            tensors |= dict(zip(names or (), values or (), strict=True))
        if out.embedding is not None:
            tensors["embedding"] = out.embedding
        if out.logits is not None:
            tensors["head"] = head
        with _storage_errors(self.folder):
            for name, tensor in tensors.items():
                for start, row in zip(starts, tensor.cpu(), strict=True):
                    self.parts[name].write(start, row)
            self._uncommitted += len(starts)
            if self._uncommitted >= COMMIT_EVERY:
                self.commit()
        return out

    def commit(self) -> None:
        """Flush what was computed, so that it counts."""
        for part in self.parts.values():
            part.commit()
        self._uncommitted = 0

    def close(self) -> None:
        """Commit, and let another process write these files."""
        with _storage_errors(self.folder):
            self.commit()
        for part in self.parts.values():
            part.close()
        os.close(self._lock)


class Rows:
    """One part of the outputs: rows like ``like``, found by where their window begins."""

    def __init__(self, folder: Path, like: Tensor, writer: int) -> None:
        folder.mkdir(exist_ok=True)
        self.shape, self.dtype, self.bytes = like.shape, like.dtype, like.nbytes
        self.index: dict[int, tuple[int, int, int]] = {}  # start -> (file, slot, digest)
        self._pending: list[tuple[int, int]] = []  # (start, digest)
        self._files: list[int] = []
        own = folder / f"{writer:03}.rows"
        # Ours last: what was made anew there stands for what is damaged elsewhere.
        for path in [*sorted({*folder.glob("*.rows")} - {own}), own]:
            mine = path == own
            file = os.open(path, os.O_RDWR | os.O_CREAT if mine else os.O_RDONLY, 0o644)
            self._files.append(file)
            known = _starts(path.with_suffix(".starts"), os.fstat(file).st_size // self.bytes)
            for slot, (start, digest) in enumerate(known.tolist()):
                self.index[start] = (file, slot, digest)
            if mine:
                self._file, self._count = file, len(known)
                self._starts = os.open(path.with_suffix(".starts"), os.O_WRONLY | os.O_CREAT, 0o644)
                os.ftruncate(self._starts, START.itemsize * len(known))

    def read(self, start: int) -> Tensor | None:
        """The row of a window that is in ``index``; None, and no longer there, if it is damaged."""
        file, slot, digest = self.index[start]
        raw = bytearray(os.pread(file, self.bytes, slot * self.bytes))
        if row_digest(raw) != digest:
            del self.index[start]
            return None
        return torch.frombuffer(raw, dtype=self.dtype).view(self.shape)

    def write(self, start: int, row: Tensor) -> None:
        """Add a window, unless it is there."""
        if start in self.index:
            return
        flat: Any = row.contiguous().flatten().view(torch.uint8).numpy()
        raw = memoryview(flat)
        _write_all(self._file, raw, self._count * self.bytes)
        digest = row_digest(raw)
        self.index[start] = (self._file, self._count, digest)
        self._pending.append((start, digest))
        self._count += 1

    def commit(self) -> None:
        """Rows first, then their starts."""
        if self._pending:
            os.fsync(self._file)
            raw = memoryview(np.array(self._pending, dtype=START).tobytes())
            _write_all(self._starts, raw, START.itemsize * (self._count - len(self._pending)))
            os.fsync(self._starts)
            self._pending.clear()

    def close(self) -> None:
        """Close the files; what was not committed is lost."""
        for file in (*self._files, self._starts):
            os.close(file)


def _folder(where: str, named: Mapping[str, Any]) -> Path:
    if where != "auto":
        return Path(where).expanduser()
    key = hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:20]
    return default_cache_dir() / f"teacher-{key}"


def _claim(folder: Path, named: Mapping[str, Any]) -> None:
    """Write the manifest, or compare with the one that is there."""
    path = folder / "manifest.json"
    if not path.exists():
        strange = any(one.name[:1] != "." for one in folder.iterdir())
        if strange and not path.exists():  # unless another rank was quicker
            raise ConfigError(f"{folder} holds other things than a teacher cache; name another.")
        draft = folder / f".manifest-{os.getpid()}"
        draft.write_text(json.dumps(named, indent=2) + "\n", "utf-8")
        os.replace(draft, path)
    there = read_json(path, advice=f"Delete {folder}.")
    differ = sorted(k for k in there.keys() | named.keys() if there.get(k) != named.get(k))
    if differ:
        told = "; ".join(f"{k} is {there.get(k)!r}, not {named.get(k)!r}" for k in differ)
        raise ConfigError(
            f"{folder} holds another teacher's outputs, or of another text: {told}. Name another "
            "folder, or auto."
        )


def _writer(folder: Path) -> tuple[int, int]:
    """The lock of the first number that no other process holds, and the number."""
    for number in itertools.count():
        lock = os.open(folder / f"writer-{number:03}.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
        else:
            return lock, number
    raise AssertionError("unreachable")


def _starts(path: Path, rows: int) -> NDArray[Any]:
    """Starts and digests of whole rows; one that is cut off, or whose row is, is left out."""
    raw = path.read_bytes() if path.is_file() else b""
    whole = len(raw) // START.itemsize * START.itemsize
    return np.frombuffer(raw[:whole], dtype=START)[:rows]


def _write_all(file: int, raw: memoryview, offset: int) -> None:
    while raw:
        written = os.pwrite(file, raw, offset)
        raw, offset = raw[written:], offset + written


def _pick(rows: Mapping[str, Tensor], names: Any) -> tuple[Tensor, ...] | None:
    return None if names is None else tuple(rows[name] for name in names)


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB"


@contextmanager
def _storage_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = " Free some space." if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise StorageError(
            f"the teacher cache {folder} cannot be used: {error.strerror or error}.{full} What was "
            "committed stays whole; leave cache_teacher out to train without it."
        ) from error
