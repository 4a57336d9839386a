"""Cache of log-likelihoods: an append-only JSON Lines file per model and setting.

A line is ``{"key": sha256 of the tokens, "value": [log-likelihood, greedy], "xxh3": digest}``,
written after each batch, so that an interrupted suite continues where it stopped. A line that was
cut off or altered does not match its digest; it is dropped, and its value is computed again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from spikeformers.data.store import default_cache_dir
from spikeformers.errors import StorageError
from spikeformers.storage import check_folder, row_digest

RULES = 1  # to be increased when the same request would get another value
FORMAT = 2  # of a line; 1 had no digest
Value = tuple[float, bool]

logger = logging.getLogger(__name__)


def request_key(tokens: Sequence[int], targets: Sequence[int]) -> str:
    """sha256 (hex) of an input and of the tokens that are scored at its end."""
    return hashlib.sha256(json.dumps([list(tokens), list(targets)]).encode()).hexdigest()


class LikelihoodCache:
    """``identity`` is everything that a value depends on besides its tokens.

    With ``folder`` None nothing is stored on disk.
    """

    def __init__(self, identity: Mapping[str, Any], folder: Path | str | None = "auto") -> None:
        self.values: dict[str, Value] = {}
        self.path: Path | None = None
        if folder is None:
            return
        home = default_cache_dir() / "likelihoods" if folder == "auto" else Path(folder)
        text = json.dumps({"rules": RULES, "format": FORMAT, **identity}, sort_keys=True)
        self.path = home / f"{hashlib.sha256(text.encode()).hexdigest()[:20]}.jsonl"
        check_folder(home, "SPIKEFORMERS_CACHE:" if folder == "auto" else "")
        if self.path.is_file():
            self.values = _read(self.path)

    def add(self, values: Mapping[str, Value]) -> None:
        """Add the values of a batch."""
        self.values.update(values)
        if self.path is None:
            return
        lines = [_line(key, value) for key, value in values.items()]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab+") as stream:
                with suppress(OSError):  # a file system without locks
                    fcntl.flock(stream, fcntl.LOCK_EX)  # others may be in the middle of a line
                _end_line(stream)
                stream.write("".join(lines).encode())
        except OSError as error:
            raise StorageError(
                f"log-likelihoods cannot be written to {self.path}: {error.strerror or error}. "
                "Free some space, or name another folder in SPIKEFORMERS_CACHE."
            ) from error


def _line(key: str, value: Value) -> str:
    content = {"key": key, "value": [float(value[0]), bool(value[1])]}
    return json.dumps({**content, "xxh3": row_digest(json.dumps(content).encode())}) + "\n"


def _read(path: Path) -> dict[str, Value]:
    """The values of valid lines; a warning gives the number of others."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise StorageError(
            f"log-likelihoods cannot be read from {path}: {error.strerror or error}."
        ) from error
    values: dict[str, Value] = {}
    damaged = 0
    for line in lines:
        try:
            entry = json.loads(line)
            key, value = entry["key"], (entry["value"][0], entry["value"][1])
            if entry != json.loads(_line(key, value)):
                raise ValueError("altered")
        except (ValueError, KeyError, TypeError, IndexError, RecursionError):
            damaged += 1
            continue
        values[key] = value
    if damaged:
        logger.warning(
            "%s: %d of %d lines are damaged; their values are computed again.",
            path,
            damaged,
            len(lines),
        )
    return values


def _end_line(stream: BinaryIO) -> None:
    """End a line that a crash cut off, so that the next one starts on a new line."""
    if stream.seek(0, 2):
        stream.seek(-1, 2)
        if stream.read(1) != b"\n":
            stream.write(b"\n")
