"""Digests against published values, and of files as of their content."""

from __future__ import annotations

from pathlib import Path

from spikeformers.storage import digest_of, file_digest, row_digest
from spikeformers.storage.digest import PIECE

EMPTY = "99aa06d3014798d86001c324468d497f"  # XXH3 128 of nothing, as xxhash's own tests have it


def test_nothing_has_the_published_digest(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    assert file_digest(tmp_path / "empty") == digest_of([]) == EMPTY
    assert row_digest(b"") == 0x2D06800538D394C2


def test_pieces_do_not_matter_and_one_bit_does(tmp_path: Path) -> None:
    content = bytes(range(256)) * (PIECE // 256) + b"end"
    (tmp_path / "file").write_bytes(content)
    complete = digest_of([content])
    assert file_digest(tmp_path / "file") == digest_of([content[:7], content[7:]]) == complete
    (tmp_path / "file").write_bytes(content[:-1] + b"e")
    assert file_digest(tmp_path / "file") != complete
