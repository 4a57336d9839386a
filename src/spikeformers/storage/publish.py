"""Files that appear together: in a folder, the one that makes them valid last, or as a folder."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spikeformers.errors import StorageError


@contextmanager
def publishing(folder: Path, *, last: str, failed: str, advice: str) -> Iterator[Path]:
    """Yield a temporary folder to write; at the end its files move into ``folder``, ``last`` last.

    A refused write, also one of safetensors, raises ``StorageError``: ``failed``, the reason,
    ``advice``. After any exception the temporary folder is removed; files that were in ``folder``
    stay, unless their successors had moved there already.
    """
    from safetensors import SafetensorError

    temporary = folder / ".export"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        yield temporary
        for path in sorted(temporary.iterdir(), key=lambda path: path.name == last):
            os.replace(path, folder / path.name)
        temporary.rmdir()
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if not isinstance(error, (OSError, SafetensorError)):
            raise
        raise StorageError(f"{failed}: {error}. {advice}") from error


@contextmanager
def draft_of(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside ``folder``, for what is renamed to it once it is complete.

    It is removed at the end unless it was renamed. Folders above are made if they are missing.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        draft.chmod(0o755)  # a cache may be shared
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)
