"""The engine file: one safetensors file that is mapped into memory.

    8 bytes     length of the header
    header      JSON: tensors by name, and __metadata__ with format, version, sha256, description,
                config, tokenizer, weights; padded with spaces so that the data begin at 64
    data        float32 tensors, then halves (BF16), then int8 and int4 (U8), the smallest first;
                matrices input-major, whole ones with NAME.scale, those in groups with halves
                NAME.scale and NAME.minimum; of int4, 64 outputs in 32 bytes, see
                spikeformers.export.quantising

The checksum covers header and data. The file is read through once on opening, by ordinary reads,
for the checksum and for values that are not finite; the tensors are a mapping of it, of which only
the rows that fire become resident, or a copy in huge pages (`spikeformers.engine.huge_pages`).
"""

from __future__ import annotations

import bisect
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from spikeformers.engine.huge_pages import allocate, worthwhile
from spikeformers.errors import CheckpointError
from spikeformers.foreign import check_object, foreign
from spikeformers.storage import replacing

FORMAT, VERSION = "spikeformers-engine", "1"
TYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "BF16": np.dtype("<u2"),  # the upper halves of floats, which NumPy has no type for
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
}
NAMES = {dtype: name for name, dtype in TYPES.items()}
ALIGN, BLANK = 64, "0" * 64
PIECE = 1 << 20  # bytes that are read at a time
AXES = 8  # a tensor has no more
KEYS = ("format", "version", "sha256", "description", "config", "tokenizer", "weights")


@dataclass(frozen=True)
class Packed:
    """A model as the engine runs it."""

    description: dict[str, Any]
    tensors: Mapping[str, NDArray[Any]]
    config: dict[str, Any]
    tokenizer: dict[str, Any]
    """``rules`` (the text of tokenizer.json, or null) and ``bos``, ``eos`` ids (or null)."""
    weights: str
    """fp32, int8 or int4."""


def write(packed: Packed, path: str | Path) -> int:
    """Write an engine file atomically; returns its size in bytes.

    Raises StorageError if it cannot be written, and CheckpointError for a tensor that holds NaN or
    infinity.
    """
    path = Path(path)
    for name, tensor in packed.tensors.items():
        if not _finite(tensor):
            raise CheckpointError(
                f"tensor {name!r} holds values that are not finite: {path} was not written."
            )
    ordered = sorted(  # small ones lie together, so that what every token reads is few pages
        packed.tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[1].nbytes, item[0])
    )
    entries: dict[str, Any] = {}
    at = 0
    for name, tensor in ordered:
        kind = NAMES[tensor.dtype]
        span = [at, at + tensor.nbytes]
        entries[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": span}
        at = span[1]
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "sha256": BLANK,
        "description": json.dumps(packed.description),
        "config": json.dumps(packed.config),
        "tokenizer": json.dumps(packed.tokenizer),
        "weights": packed.weights,
    }
    header = json.dumps({"__metadata__": metadata, **entries}).encode()
    header += b" " * (-(8 + len(header)) % ALIGN)
    digest = hashlib.sha256(header)
    for _, tensor in ordered:
        digest.update(np.ascontiguousarray(tensor).data)
    header = header.replace(BLANK.encode(), digest.hexdigest().encode(), 1)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(len(header).to_bytes(8, "little"))
        file.write(header)
        for _, tensor in ordered:
            file.write(np.ascontiguousarray(tensor).data)
    return 8 + len(header) + at


def is_engine_file(path: str | Path) -> bool:
    """Whether `read` would recognise this file as an engine file, damaged or not."""
    path = Path(path)
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return FORMAT.encode() in file.read(256)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error


def read(path: str | Path, *, huge_pages: bool | None = False) -> Packed:
    """Open an engine file; its tensors are views of the mapped file, or of a copy in huge pages.

    None copies where `spikeformers.engine.huge_pages.worthwhile` says so. Raises CheckpointError
    for what is missing, truncated, altered, of another version, not an engine file at all, or holds
    values that are not finite, UsageError for huge pages where the system has none.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= size - 8:
                raise CheckpointError(f"{path} is not an engine file, or is truncated.")
            header = file.read(length)
            if (8 + length) % ALIGN:
                raise CheckpointError(f"{path} is not an engine file: its data are not aligned.")
            metadata, entries = _parse(path, header)
            _check(path, entries, size - 8 - length)
            data = size - 8 - length
            if huge_pages is None:
                huge_pages = metadata["weights"] != "fp32" and worthwhile(data)
            copy = allocate(data) if huge_pages and entries else None
            broken = _read_through(path, file, header, metadata["sha256"], entries, copy)
            # Of the file that was read, not of one that has its name by now.
            mapped: Any = copy
            if entries and copy is None:
                mapped = np.memmap(file, np.uint8, "r", offset=8 + length)  # type: ignore[call-overload]
            elif copy is not None:
                copy.flags.writeable = False
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
    if broken is not None:
        raise CheckpointError(f"{path}: tensor {broken!r} holds values that are not finite.")
    tensors: dict[str, NDArray[Any]] = {}
    for name, entry in entries.items():
        begin, end = entry["data_offsets"]
        raw = mapped[begin:end].view(TYPES[entry["dtype"]])
        tensors[name] = np.asarray(raw.reshape(entry["shape"]))
    description, config, tokenizer = (
        _dictionary(path, key, metadata[key]) for key in ("description", "config", "tokenizer")
    )
    _check_tokenizer(path, tokenizer)
    return Packed(description, tensors, config, tokenizer, metadata["weights"])


def _read_through(
    path: Path,
    file: BinaryIO,
    header: bytes,
    sha256: str,
    entries: Mapping[str, Any],
    copy: NDArray[np.uint8] | None,
) -> str | None:
    """Check the digest, and name the first tensor that is not finite, a piece at a time.

    Without a ``copy`` to fill, the data stay in the system's cache, not in this process: no page of
    a mapping is touched.
    """
    reals = sorted(
        (*entry["data_offsets"], name, TYPES[entry["dtype"]])
        for name, entry in entries.items()
        if entry["dtype"] in ("F32", "BF16")
    )
    digest = hashlib.sha256(header.replace(sha256.encode(), BLANK.encode(), 1))
    broken, at = None, 0
    while piece := file.read(PIECE):
        digest.update(piece)
        broken = broken or _not_finite(piece, at, reals)
        if copy is not None:
            copy[at : at + len(piece)] = np.frombuffer(piece, np.uint8)
        at += len(piece)
    if digest.hexdigest() != sha256:
        raise CheckpointError(f"{path} was altered or damaged (checksum); export it again.")
    return broken


def _finite(values: NDArray[Any]) -> bool:
    """Whether floats, or halves as the file keeps them, are finite; integers always are."""
    if values.dtype == TYPES["BF16"]:
        return not (values & 0x7F80 == 0x7F80).any()
    return bool(np.isfinite(values).all())


def _not_finite(
    piece: bytes, at: int, reals: Sequence[tuple[int, int, str, np.dtype[Any]]]
) -> str | None:
    """Name of a tensor with a value that is not finite in the bytes from ``at`` on."""
    first = bisect.bisect_right(reals, at, key=lambda span: span[1])
    for begin, end, name, dtype in reals[first:]:
        if begin >= at + len(piece):
            return None
        start, stop = max(begin, at) - at, min(end, at + len(piece)) - at
        values = np.frombuffer(piece, dtype, (stop - start) // dtype.itemsize, start)
        if not _finite(values):
            return name
    return None


def _dictionary(path: Path, key: str, text: str) -> dict[str, Any]:
    with foreign(f"{path}: {key} in its header is not valid JSON"):
        value = json.loads(text)
    return check_object(value, {}, f"{path}: {key} in its header")


def _check_tokenizer(path: Path, tokenizer: Mapping[str, Any]) -> None:
    texts = [tokenizer.get(key) for key in ("rules", "chat_template")]
    ids = [tokenizer.get(key) for key in ("bos", "eos")]
    if not all(text is None or isinstance(text, str) for text in texts) or not all(
        id is None or type(id) is int for id in ids
    ):
        raise CheckpointError(
            f"{path}: its tokenizer is malformed: rules and chat template are text, ids numbers."
        )


def _parse(path: Path, header: bytes) -> tuple[dict[str, str], dict[str, Any]]:
    """Metadata and tensor entries of a header, every type checked."""
    try:
        entries = json.loads(header)
        metadata = entries.pop("__metadata__")
        kind, version = metadata["format"], metadata["version"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is not an engine file: its header is not readable."
        ) from error
    if kind != FORMAT:
        raise CheckpointError(f"{path} is not an engine file, but {kind!r}.")
    if version != VERSION:
        raise CheckpointError(
            f"{path} has version {version} of the engine's format, and this release reads "
            f"{VERSION}: export the model again."
        )
    if not all(isinstance(metadata.get(key), str) for key in KEYS):
        raise CheckpointError(f"{path}: its header lacks one of {', '.join(KEYS)}.")
    if not re.fullmatch("[0-9a-f]{64}", metadata["sha256"]):
        raise CheckpointError(f"{path}: its sha256 is not 64 digits.")
    for name, entry in entries.items():
        fine = (
            isinstance(entry, dict)
            and isinstance(entry.get("dtype"), str)
            and entry["dtype"] in TYPES
            and all(
                isinstance(entry.get(key), list)
                and all(type(n) is int and 0 <= n < 1 << 48 for n in entry[key])
                and len(entry[key]) <= AXES
                for key in ("shape", "data_offsets")
            )
            and len(entry["data_offsets"]) == 2
            and 0 not in entry["shape"]
        )
        if not fine:
            raise CheckpointError(f"{path}: the header's entry of tensor {name!r} is malformed.")
    return metadata, entries


def _check(path: Path, entries: Mapping[str, Any], size: int) -> None:
    """Tensors lie one after the other, each as long as its shape says, to the end of the file."""
    at = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        length = TYPES[entry["dtype"]].itemsize
        for n in entry["shape"]:
            length *= n
        aligned = begin % TYPES[entry["dtype"]].itemsize == 0
        if begin != at or end - begin != length or not aligned:
            raise CheckpointError(f"{path}: tensor {name!r} does not lie where its header says.")
        at = end
    if at != size:
        raise CheckpointError(
            f"{path} holds {size:,} bytes of tensors, and its header describes {at:,}: it is "
            "truncated or damaged. Copy it again, or export the model again."
        )
