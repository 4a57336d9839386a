"""The engine file: one safetensors file that is read where it lies.

    8 bytes     length of the header
    header      JSON: tensors by name, and __metadata__ with format, version, sha256, description,
                config, tokenizer, weights; padded with spaces so that the data begin at 64
    data        float32 tensors, then int8 and int4 (U8); matrices input-major, whole ones with
                NAME.scale; of int4, 64 outputs in 32 bytes, see spikeformers.export.quantising

The checksum covers header and data. It is read through once on opening, by ordinary reads, so that
only what fires is ever resident.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikeformers.errors import CheckpointError, StorageError
from spikeformers.foreign import check_object, foreign

FORMAT, VERSION = "spikeformers-engine", "1"
TYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
}
NAMES = {dtype: name for name, dtype in TYPES.items()}
ALIGN, BLANK = 64, "0" * 64
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
    """Write an engine file through a temporary name; returns its bytes. Raises StorageError."""
    path = Path(path)
    ordered = sorted(packed.tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
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
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(len(header).to_bytes(8, "little"))
            file.write(header)
            for _, tensor in ordered:
                file.write(np.ascontiguousarray(tensor).data)
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StorageError(
            f"could not write {path}: {error.strerror or error}. What was there is unchanged; "
            "free some space, or name another file."
        ) from error
    return 8 + len(header) + at


def is_engine_file(path: str | Path) -> bool:
    """Whether this is a file that `read` would take for an engine file, whole or not."""
    path = Path(path)
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return FORMAT.encode() in file.read(256)


def read(path: str | Path) -> Packed:
    """Open an engine file; its tensors are views of the mapped file.

    Raises CheckpointError for what is missing, truncated, altered, of another version or not an
    engine file at all.
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
            digest = hashlib.sha256(header.replace(metadata["sha256"].encode(), BLANK.encode(), 1))
            while piece := file.read(1 << 20):
                digest.update(piece)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
    if digest.hexdigest() != metadata["sha256"]:
        raise CheckpointError(f"{path} was altered or damaged (checksum); export it again.")
    mapped = np.memmap(path, np.uint8, "r", offset=8 + length) if size > 8 + length else None
    tensors: dict[str, NDArray[Any]] = {}
    for name, entry in entries.items():
        begin, end = entry["data_offsets"]
        raw = np.empty(0, np.uint8) if mapped is None else mapped[begin:end]
        tensors[name] = np.asarray(raw.view(TYPES[entry["dtype"]]).reshape(entry["shape"]))
        if entry["dtype"] == "F32" and not np.isfinite(tensors[name]).all():
            raise CheckpointError(f"{path}: tensor {name} holds values that are not finite.")
    described = {}
    for key in ("description", "config", "tokenizer"):
        with foreign(f"{path}: {key} in its header is not valid JSON"):
            value = json.loads(metadata[key])
        described[key] = check_object(value, {}, f"{path}: {key} in its header")
    return Packed(
        described["description"],
        tensors,
        described["config"],
        described["tokenizer"],
        metadata["weights"],
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
    for name, entry in entries.items():
        fine = (
            isinstance(entry, dict)
            and entry.get("dtype") in TYPES
            and all(
                isinstance(entry.get(key), list)
                and all(type(n) is int and 0 <= n < 1 << 48 for n in entry[key])
                for key in ("shape", "data_offsets")
            )
            and len(entry["data_offsets"]) == 2
        )
        if not fine:
            raise CheckpointError(f"{path}: the header's entry of tensor {name!r} is malformed.")
    return metadata, entries


def _check(path: Path, entries: Mapping[str, Any], size: int) -> None:
    """Tensors lie one after the other, each as long as its shape says, to the end of the file."""
    at = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        wanted = TYPES[entry["dtype"]].itemsize
        for n in entry["shape"]:
            wanted *= n
        aligned = begin % TYPES[entry["dtype"]].itemsize == 0
        if begin != at or end - begin != wanted or not aligned:
            raise CheckpointError(f"{path}: tensor {name!r} does not lie where its header says.")
        at = end
    if at != size:
        raise CheckpointError(
            f"{path} holds {size:,} bytes of tensors, and its header describes {at:,}: it is "
            "truncated or damaged. Copy it again, or export the model again."
        )
