"""The teacher's outputs on disk: computed once per window of text, then read.

    FOLDER/manifest.json       the origin of the outputs: teacher, text, context, device kind
           writer-000.lock     held by the process that writes the files 000
           head/000.rows       one row per window: the input of the teacher's head, [T, D]
           head/000.starts     two int64 per row: the start of its window in the split, its XXH3
           embedding/ hidden-8/ attention-8/ ...

The start of a window is its key, so runs with other seeds or fewer terms share a cache. Logits are
not stored; the head computes them again. A run with a cache has the same losses as one without, bit
for bit if both run the teacher on the same micro-batches in the same precision.

Rows are flushed to the disk before their starts, and a row without a start is ignored: a process
that dies loses its last few windows, but no wrong row is ever read. A row that does not match its
digest is named in a warning and computed again. Several processes (ranks, or parallel runs) write
separate files, and read everything that existed when they began.
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
from spikeformers.storage import row_digest, write_text
from spikeformers.training.distillation.teacher import Needs, Teacher, TeacherOutput
from spikeformers.values import bytes_in_words

FORMAT_VERSION = 2  # 1 had no digests
START = np.dtype([("start", "<i8"), ("xxh3", "<u8")])
COMMIT_EVERY = 64  # windows between two flushes to the disk

logger = logging.getLogger(__name__)


class TeacherCache:
    """``cache(ids, starts)`` is ``teacher(ids, needs)`` for the windows that begin at ``starts``.

    ``where`` is a folder, or "auto" for one beside the token stores whose name is derived from
    ``identity``. Raises ``ConfigError`` for a folder with other outputs, ``StorageError`` if the
    disk refuses.
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
                name: CachedRows(self.folder / name, row[0], writer) for name, row in rows.items()
            }

    def _probe(self, ids: Tensor) -> tuple[TeacherOutput, dict[str, Tensor]]:
        """Names of the parts in the layout of an output, and one row of each."""
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
            features.append("head" if same else f"hidden-{layer}")  # do not store the last twice
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
        """A line about the windows to add; ``StorageError`` if the disk has too little room."""
        windows = {int(start) for start in starts}
        missing = {start for part in self.parts.values() for start in windows - part.index.keys()}
        size, free = len(missing) * self.window_bytes, shutil.disk_usage(self.folder).free
        summary = (
            f"teacher cache {self.folder}: {len(windows) - len(missing):,} of {len(windows):,} "
            f"windows are there; the others take {bytes_in_words(size)} "
            f"({bytes_in_words(self.window_bytes)} each), {bytes_in_words(free)} are free"
        )
        if size > free:
            raise StorageError(
                f"{summary}. Leave cache_teacher out, name a folder on another disk, train fewer "
                "steps, or leave out the terms that need most (saa, sfa)."
            )
        return summary

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, starts: NDArray[Any]) -> TeacherOutput:
        """The teacher's outputs for ids ``[B, T]``, from the disk if every window is there."""
        windows = [int(start) for start in starts]
        rows = self._read(windows, input_ids.device)
        if rows is None:
            return self._compute(input_ids, windows)
        names = self.names
        return TeacherOutput(
            rows["embedding"] if names.embedding is not None else None,
            _pick(rows, names.attentions),
            _pick(rows, names.features),
            self.teacher.logits(rows["head"]) if names.logits is not None else None,
        )

    def _read(self, starts: list[int], device: torch.device) -> dict[str, Tensor] | None:
        """The rows of each part; None if a row is missing or damaged and has to be computed."""
        if any(start not in part.index for part in self.parts.values() for start in starts):
            return None
        with _storage_errors(self.folder):
            read = {name: [part.read(s) for s in starts] for name, part in self.parts.items()}
        damaged = [name for name, rows in read.items() if any(row is None for row in rows)]
        if damaged:
            logger.warning(
                "teacher cache %s: %s of a window at one of %s is not what was written; it is "
                "computed again",
                self.folder,
                ", ".join(damaged),
                starts,
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
        """Flush the computed rows and their starts to the disk."""
        for part in self.parts.values():
            part.commit()
        self._uncommitted = 0

    def close(self) -> None:
        """Commit, and release these files for another process."""
        with _storage_errors(self.folder):
            self.commit()
        for part in self.parts.values():
            part.close()
        os.close(self._lock)


class CachedRows:
    """One part of the outputs: rows of the shape of ``like``, by the start of their window."""

    def __init__(self, folder: Path, like: Tensor, writer: int) -> None:
        folder.mkdir(exist_ok=True)
        self.shape, self.dtype, self.bytes = like.shape, like.dtype, like.nbytes
        self.index: dict[int, tuple[int, int, int]] = {}  # start -> (file, slot, digest)
        self._pending: list[tuple[int, int]] = []  # (start, digest)
        self._files: list[int] = []
        own = folder / f"{writer:03}.rows"
        # Our own last: rows that were computed again there replace damaged ones elsewhere.
        for path in [*sorted({*folder.glob("*.rows")} - {own}), own]:
            is_own = path == own
            file = os.open(path, os.O_RDWR | os.O_CREAT if is_own else os.O_RDONLY, 0o644)
            self._files.append(file)
            starts = _starts(path.with_suffix(".starts"), os.fstat(file).st_size // self.bytes)
            for slot, (start, digest) in enumerate(starts.tolist()):
                self.index[start] = (file, slot, digest)
            if is_own:
                self._file, self._count = file, len(starts)
                self._starts = os.open(path.with_suffix(".starts"), os.O_WRONLY | os.O_CREAT, 0o644)
                os.ftruncate(self._starts, START.itemsize * len(starts))

    def read(self, start: int) -> Tensor | None:
        """The row of a window in ``index``; None if it is damaged, and then it is removed there."""
        file, slot, digest = self.index[start]
        raw = bytearray(os.pread(file, self.bytes, slot * self.bytes))
        if row_digest(raw) != digest:
            del self.index[start]
            return None
        return torch.frombuffer(raw, dtype=self.dtype).view(self.shape)

    def write(self, start: int, row: Tensor) -> None:
        """Add a window unless it is in ``index``."""
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
        """Flush the rows first, then their starts."""
        if self._pending:
            os.fsync(self._file)
            raw = memoryview(np.array(self._pending, dtype=START).tobytes())
            _write_all(self._starts, raw, START.itemsize * (self._count - len(self._pending)))
            os.fsync(self._starts)
            self._pending.clear()

    def close(self) -> None:
        """Close the files; rows that were not committed are lost."""
        for file in (*self._files, self._starts):
            os.close(file)


def _folder(where: str, named: Mapping[str, Any]) -> Path:
    if where != "auto":
        return Path(where).expanduser()
    key = hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:20]
    return default_cache_dir() / f"teacher-{key}"


def _claim(folder: Path, named: Mapping[str, Any]) -> None:
    """Write the manifest, or compare it with the existing one."""
    path = folder / "manifest.json"
    if not path.exists():
        foreign_files = any(file.name[:1] != "." for file in folder.iterdir())
        if foreign_files and not path.exists():  # unless another rank was faster
            raise ConfigError(f"{folder} holds other things than a teacher cache; name another.")
        write_text(path, json.dumps(named, indent=2) + "\n")
    manifest = read_json(path, advice=f"Delete {folder}.")
    differ = sorted(k for k in manifest.keys() | named.keys() if manifest.get(k) != named.get(k))
    if differ:
        differences = "; ".join(f"{k} is {manifest.get(k)!r}, not {named.get(k)!r}" for k in differ)
        raise ConfigError(
            f"{folder} holds the outputs of another teacher or another text: {differences}. Name "
            "another folder, or auto."
        )


def _writer(folder: Path) -> tuple[int, int]:
    """The lock of the first number that no other process holds, and this number."""
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
    """Starts and digests of complete rows, without entries that are cut off or whose row is."""
    raw = path.read_bytes() if path.is_file() else b""
    complete = len(raw) // START.itemsize * START.itemsize
    return np.frombuffer(raw[:complete], dtype=START)[:rows]


def _write_all(file: int, raw: memoryview, offset: int) -> None:
    while raw:
        written = os.pwrite(file, raw, offset)
        raw, offset = raw[written:], offset + written


def _pick(rows: Mapping[str, Tensor], names: Any) -> tuple[Tensor, ...] | None:
    return None if names is None else tuple(rows[name] for name in names)


@contextmanager
def _storage_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = " Free some space." if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise StorageError(
            f"the teacher cache {folder} cannot be used: {error.strerror or error}.{full} Rows "
            "that were committed stay valid; leave cache_teacher out to train without it."
        ) from error
