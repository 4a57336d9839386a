"""Reading documents from local files as streams: at most one document is in memory."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from spikeformers.errors import DataError, nearest
from spikeformers.foreign import foreign

Document = tuple[str, str]  # name, text
TEXT = (".txt", ".text", ".md", ".markdown", ".tokens", ".raw")
ROWS = (".jsonl", ".jsonl.gz", ".parquet")
PIECE = 1 << 20  # bytes of a long text handled at once
_ARTICLE = re.compile(rb" ?= (?!= )\S.*?(?<! =) = ?\r?\n?")  # a WikiText title, not a section's


def suffix_of(path: Path) -> str:
    """The suffix that decides how a file is read, ``""`` for a kind that is not read."""
    name = path.name.lower()
    return next((ending for ending in (*TEXT, *ROWS) if name.endswith(ending)), "")


def file_digest(path: Path) -> str:
    """sha256 (hex) of a file; DataError names the offset of bytes that are not UTF-8 text."""
    digest = hashlib.sha256()
    decoder = codecs.getincrementaldecoder("utf-8")()
    is_text = suffix_of(path) in TEXT
    start = 0
    with _opened(path) as stream:
        while block := stream.read(PIECE):
            digest.update(block)
            if is_text:
                held = len(decoder.getstate()[0])
                try:
                    decoder.decode(block)
                except UnicodeDecodeError as error:
                    raise _undecodable(path, start - held + error.start, error) from error
            start += len(block)
    held = len(decoder.getstate()[0])
    if held:
        raise DataError(f"{path}: the text breaks off inside a character at byte {start - held}.")
    return digest.hexdigest()


def read_text(path: Path) -> str:
    """A complete text file, without its byte order mark, with unchanged line ends."""
    with _opened(path) as stream:
        raw: bytes = stream.read()
    try:
        return raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise _undecodable(path, error.start, error) from error


def text_pieces(path: Path, start: int, end: int) -> Iterator[str]:
    """Bytes ``[start, end)`` of a text file in pieces that end at a line break if possible."""
    with _opened(path) as stream:
        stream.seek(start)
        held = b""
        left = end - start
        while left > 0:
            block = stream.read(min(PIECE, left))
            if not block:
                break
            left -= len(block)
            held += block
            cut = len(held) if left <= 0 else _last_boundary(held)
            piece, held = held[:cut], held[cut:]
            try:
                text = piece.decode("utf-8")
            except UnicodeDecodeError as error:
                offset = end - left - len(held) - len(piece) + error.start
                raise _undecodable(path, offset, error) from error
            if start == 0:
                text, start = text.removeprefix("\ufeff"), 1
            if text:
                yield text


def paragraph_boundary(path: Path, fraction: float) -> int:
    """Byte offset of the paragraph that begins the last ``fraction`` of the file.

    It is the next blank line after that point, else the next line, else the next space, else the
    end of the file.
    """
    size = path.stat().st_size
    aim = size - round(size * fraction)
    if aim >= size:
        return size
    with _opened(path) as stream:
        stream.seek(aim)
        ahead: bytes = stream.read(PIECE)
    for pattern in (rb"\r?\n[ \t]*\r?\n", rb"\n", rb" "):
        match = re.search(pattern, ahead)
        if match and aim + match.end() < size:
            return aim + match.end()
    return size


def has_articles(path: Path) -> bool:
    """Whether a text file has WikiText's format: its first non-empty line is `` = Title = ``."""
    with _opened(path) as stream:
        for _ in range(10):
            line: bytes = stream.readline(4096)
            if line.strip():
                return bool(_ARTICLE.fullmatch(line))
    return False


def articles(path: Path, name: str) -> Iterator[Document]:
    """Articles of a file in WikiText's format; joined, they are the file."""
    lines: list[bytes] = []
    number = 0
    titled = False
    with _opened(path) as stream:
        before, line = b"", next(stream, b"")
        while line:
            after = next(stream, b"")
            # A title stands between blank lines; a formula may look like one elsewhere.
            if _ARTICLE.fullmatch(line) and not before.strip() and not after.strip():
                if titled:
                    yield _article(path, name, number, lines)
                    number += 1
                    lines = []
                titled = True
            lines.append(line)
            before, line = line, after
    if lines:
        yield _article(path, name, number, lines)


def _article(path: Path, name: str, number: int, lines: list[bytes]) -> Document:
    try:
        return f"{name}:{number}", b"".join(lines).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: article {number} is not UTF-8 text ({error}).") from error


def json_rows(path: Path, name: str, field: str) -> Iterator[Document]:
    """Texts of a JSON Lines file, gzipped or not, named ``NAME:LINE``; blank lines are skipped."""
    opener: Callable[[Path], Any] = gzip.open if path.name.lower().endswith(".gz") else _opened
    try:
        with opener(path) as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield f"{name}:{number}", _json_text(path, number, line, field)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is damaged or not a gzip file: {error}.") from error


def _json_text(path: Path, number: int, line: bytes, field: str) -> str:
    try:
        row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}:{number}: byte {error.start} of the line (0x{line[error.start]:02x}) is not "
            "UTF-8. Convert the file to UTF-8."
        ) from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}:{number}: not JSON ({error.msg} at column {error.colno}). Each line must be "
            f'one object such as {{"{field}": "..."}}.'
        ) from error
    if not isinstance(row, dict):
        raise DataError(f"{path}:{number}: a JSON object is needed, got {type(row).__name__}.")
    if field not in row:
        raise DataError(
            f"{path}:{number}: no field {field!r}; the fields are {sorted(row)}."
            f"{nearest(field, row)} Set text_field to the one that holds the text."
        )
    if not isinstance(row[field], str):
        raise DataError(
            f"{path}:{number}: field {field!r} holds {type(row[field]).__name__}, not text."
        )
    text = str(row[field])
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{path}:{number}: field {field!r} holds half a character, "
            f"\\u{ord(text[error.start]):04x}, which is not text. Repair or leave out the line."
        ) from error
    return text


def parquet_rows(path: Path, name: str, field: str) -> Iterator[Document]:
    """Texts of a Parquet file, named ``NAME:ROW``."""
    try:
        import pyarrow.parquet as parquet
    except ModuleNotFoundError as error:
        raise DataError(f"{path}: reading Parquet needs pyarrow. `pip install pyarrow`.") from error
    unreadable = f"{path} cannot be read as Parquet"
    with foreign(unreadable, DataError), parquet.ParquetFile(path) as table:
        columns = table.schema_arrow.names
        if field not in columns:
            raise DataError(
                f"{path}: no column {field!r}; the columns are {sorted(columns)}."
                f"{nearest(field, columns)} Set text_field to the one that holds the text."
            )
        number = 0
        for block in table.iter_batches(batch_size=1024, columns=[field]):
            for text in block.column(0).to_pylist():
                if text is not None and not isinstance(text, str):
                    raise DataError(
                        f"{path}: column {field!r} holds {type(text).__name__}, not text."
                    )
                yield f"{name}:{number}", text or ""
                number += 1


def _opened(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error


def _last_boundary(block: bytes) -> int:
    """The position to cut at so that no line, or at least no character, is divided."""
    line = block.rfind(b"\n") + 1
    if line:
        return line
    cut = len(block)
    for back in range(1, min(4, cut) + 1):
        if block[-back] & 0xC0 != 0x80:  # the last character begins here
            width = 1 if block[-back] < 0x80 else 2 if block[-back] < 0xE0 else 3
            width += block[-back] >= 0xF0
            return cut if back >= width else cut - back
    return cut


def _undecodable(path: Path, offset: int, error: UnicodeDecodeError) -> DataError:
    byte = error.object[error.start]
    return DataError(
        f"{path}: the byte 0x{byte:02x} at offset {offset} is not UTF-8 text. Convert the file "
        "to UTF-8, or leave it out."
    )
