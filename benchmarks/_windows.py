"""Windows of a text, for the scripts that compare programs on the same tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def token_ids(tokenizer: Any, path: str) -> list[int]:
    """The ids of a text file, or of a folder's files by name, without special tokens."""
    files = (
        sorted(f for f in Path(path).iterdir() if f.is_file()) if Path(path).is_dir() else [path]
    )
    text = "".join(Path(file).read_text("utf-8") for file in files)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def windows_of(
    ids: Sequence[int], number: int, context: int, *, first: Sequence[int] = ()
) -> list[list[int]]:
    """``number`` windows of ``context`` ids, spread evenly over a text, each after ``first``."""
    size = context - len(first)
    if len(ids) < size * number:
        raise SystemExit(f"the text has {len(ids):,} tokens; {size * number:,} are needed.")
    starts = [round(i * (len(ids) - size) / max(number - 1, 1)) for i in range(number)]
    return [[*first, *ids[start : start + size]] for start in starts]


def digest_of(windows: Any) -> str:
    """Of windows ``[W, T]``, a tensor of int64: the same tokens have the same digest."""
    return hashlib.sha256(windows.numpy().tobytes()).hexdigest()[:16]
