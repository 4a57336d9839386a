"""Log-likelihoods that were computed already: an append-only JSON Lines file a model and setting.

A line is ``{"key": sha256 of the tokens, "value": [log-likelihood, greedy]}``, written batch by
batch, so what an interrupted suite had computed is there when it runs again. A last line that was
cut off is dropped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spikeformers.data.store import default_cache_dir
from spikeformers.errors import DataError, StorageError
from spikeformers.foreign import foreign, read_text

RULES = 1  # to be raised when the same request would get another value
ADVICE = "Delete it to compute anew."
Value = tuple[float, bool]


def request_key(tokens: Sequence[int], targets: Sequence[int]) -> str:
    """sha256 (hex) of an input and of what is scored at its end."""
    return hashlib.sha256(json.dumps([list(tokens), list(targets)]).encode()).hexdigest()


class LikelihoodCache:
    """``identity`` is all that a value depends on beside its tokens. ``folder`` None: no file."""

    def __init__(self, identity: Mapping[str, Any], folder: Path | str | None = "auto") -> None:
        self.values: dict[str, Value] = {}
        self.path: Path | None = None
        if folder is None:
            return
        home = default_cache_dir() / "likelihoods" if folder == "auto" else Path(folder)
        text = json.dumps({"rules": RULES, **identity}, sort_keys=True)
        self.path = home / f"{hashlib.sha256(text.encode()).hexdigest()[:20]}.jsonl"
        if self.path.is_file():
            self.values = _read(self.path)

    def add(self, found: Mapping[str, Value]) -> None:
        """Remember the values of a batch."""
        self.values.update(found)
        if self.path is None:
            return
        lines = [json.dumps({"key": key, "value": list(value)}) for key, value in found.items()]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _mend(self.path)
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write("".join(line + "\n" for line in lines))
        except OSError as error:
            raise StorageError(
                f"log-likelihoods cannot be written to {self.path}: {error.strerror or error}. "
                "Free some space, or name another folder in SPIKEFORMERS_CACHE."
            ) from error


def _read(path: Path) -> dict[str, Value]:
    lines = read_text(path, DataError, ADVICE).splitlines(keepends=True)
    with foreign(f"{path} is damaged", DataError, ADVICE):
        entries = [json.loads(line) for line in lines if line.endswith("\n")]
        return {str(one["key"]): (float(one["value"][0]), bool(one["value"][1])) for one in entries}


def _mend(path: Path) -> None:
    """Close a line that a crash cut off, so that the next one begins anew."""
    if path.is_file() and path.stat().st_size:
        with path.open("rb+") as stream:
            stream.seek(-1, 2)
            if stream.read(1) != b"\n":
                content = path.read_bytes()
                stream.truncate(content.rfind(b"\n") + 1)
