"""Files appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from spikeformers.errors import StorageError


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``path`` through a temporary name. Raises ``StorageError``; the old file stays."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(
            f"could not write {path}: {error.strerror or error}. What was there is unchanged; "
            "free some space, or name another folder."
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text to ``path`` through a temporary name; errors as `write_bytes`."""
    write_bytes(path, text.encode("utf-8"))
