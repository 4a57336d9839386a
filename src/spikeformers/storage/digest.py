"""Digests that detect damage: XXH3, several times faster than SHA-256, but no proof of origin.

https://xxhash.com. Someone who alters a file on purpose can alter its digest too; a failing disk,
an interrupted copy or a stray write cannot.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import xxhash

PIECE = 1 << 20  # bytes read at once


def new_digest() -> Any:
    """An XXH3 digest of 128 bits to ``update`` with bytes; equals `file_digest` of these bytes."""
    return xxhash.xxh3_128()


def file_digest(path: Path) -> str:
    """XXH3 of a file's content, 128 bits in hexadecimal digits."""
    digest = new_digest()
    buffer = memoryview(bytearray(PIECE))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()


def digest_of(parts: Iterable[Any]) -> str:
    """XXH3 of buffers of bytes in order; equals `file_digest` of a file that holds them all."""
    digest = new_digest()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def row_digest(content: Any) -> int:
    """XXH3 of a buffer of bytes as an integer of 64 bits."""
    return xxhash.xxh3_64_intdigest(content)
