"""Tokens on disk, written once and memory-mapped: one file per split, and a manifest.

    CACHE/tokens-<key>/   key: digests of the corpus, the tokenizer and this format
        manifest.json     counts per split, dtype, digests; per file its XXH3 and largest id
        train.bin ...     little-endian uint16 or uint32 token ids, a separator after each document

A store is written under a temporary name and renamed when complete, so a reader never sees a
partial one, and a failed write leaves the old one. Opening reads every file once and compares
digests.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spikeformers.data.corpora import Corpus
from spikeformers.data.tokenizers import encoding, separator_id, tokenizer_digest
from spikeformers.errors import DataError, StorageError, nearest
from spikeformers.progress import Move
from spikeformers.storage import digest_of, file_digest, new_digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
FILES = "files"  # key of the manifest: checks of its files; not copied into a run's record
DIGEST = "xxh3"  # key of a file's digest there, and of the manifest's own
PIECE = 1 << 18  # characters handed to the tokenizer at once, from a long document
BATCH = 1 << 21  # characters in one parallel call of the tokenizer
_CUT = re.compile(r"(?<=[A-Za-z]) (?=[A-Za-z])")  # no tokenizer merges across this


@dataclass(frozen=True)
class TokenSplit:
    """Tokens of one split, on disk.

    Bytes (UTF-8) and words (between white space) count the text without separators; they are the
    divisors of bits per byte and word perplexity.
    """

    name: str
    path: Path
    dtype: str
    num_tokens: int
    num_bytes: int
    num_words: int
    num_documents: int
    largest_id: int | None = None
    """The largest token id; computed from the tokens if the manifest does not state it."""

    @cached_property
    def tokens(self) -> NDArray[Any]:
        """Token ids, 1-D, memory-mapped read-only."""
        if self.num_tokens == 0:
            return np.empty(0, dtype=self.dtype)
        return np.memmap(self.path, dtype=self.dtype, mode="r", shape=(self.num_tokens,))

    def check_vocabulary(self, size: int) -> None:
        """Raise ``DataError`` if an id lies beyond a model's vocabulary of ``size`` tokens."""
        largest = self.largest_id
        if largest is None:
            largest = int(self.tokens.max()) if self.num_tokens else -1
        if largest >= size:
            raise DataError(
                f"the {self.name} text holds the token id {largest}, and the model's vocabulary is "
                f"{size}: another tokenizer made it. Tokenise the text with the model's own."
            )


class TokenStore:
    """A tokenised corpus on disk.

    Opening checks size and digest of every file against the manifest; DataError if they differ.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest: dict[str, Any] = _read_manifest(self.folder)
        self._files: dict[str, dict[str, Any]] = self.manifest.pop(FILES)
        item = np.dtype(self.manifest["dtype"]).itemsize
        for name, counts in self.manifest["splits"].items():
            path = self.folder / f"{name}.bin"
            size = path.stat().st_size if path.is_file() else -1
            if size != counts["tokens"] * item:
                actual = "is missing" if size < 0 else f"holds {size} bytes"
                problem = f"{path.name} {actual}, and its manifest says {counts['tokens'] * item}"
            elif (digest := file_digest(path)) != (expected := self._files[name][DIGEST]):
                problem = f"{path.name} has the digest {digest}, and its manifest says {expected}"
            else:
                continue
            raise DataError(
                f"the token store {self.folder} is damaged: {problem}. Delete the folder to make "
                "it again."
            )

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.manifest["splits"])

    def split(self, name: str) -> TokenSplit:
        """Tokens and counts of one split."""
        if name not in self.manifest["splits"]:
            raise DataError(
                f"corpus {self.manifest['corpus']['name']} has no {name!r} split; it has "
                f"{', '.join(self.splits)}.{nearest(name, self.splits)}"
            )
        counts = self.manifest["splits"][name]
        return TokenSplit(
            name=name,
            path=self.folder / f"{name}.bin",
            dtype=self.manifest["dtype"],
            num_tokens=counts["tokens"],
            num_bytes=counts["bytes"],
            num_words=counts["words"],
            num_documents=counts["documents"],
            largest_id=self._files[name]["largest_id"],
        )


def default_cache_dir() -> Path:
    """``$SPIKEFORMERS_CACHE``, or ``~/.cache/spikeformers``."""
    named = os.environ.get("SPIKEFORMERS_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "spikeformers"


def tokenize_corpus(
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerFast,
    cache_dir: str | Path | None = None,
    progress: Move | None = None,
) -> TokenStore:
    """The token store of ``corpus`` and ``tokenizer``: opened if it exists, else made.

    A damaged store is made again, with a warning, as is one that an older version wrote without
    digests. Raises StorageError if it cannot be written.
    """
    cache = Path(cache_dir) if cache_dir is not None else default_cache_dir()
    digest = tokenizer_digest(tokenizer)
    key = hashlib.sha256(f"{FORMAT_VERSION} {corpus.digest} {digest}".encode()).hexdigest()[:20]
    folder = cache / f"tokens-{key}"
    if folder.exists():
        try:
            return TokenStore(folder)
        except DataError as error:
            logger.warning("%s It is made again.", error)
    draft: Path | None = None
    try:
        cache.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=cache))
        draft.chmod(0o755)  # a cache may be shared
        _write(draft, corpus, tokenizer, digest, progress)
        _put_in_place(draft, folder)
    except OSError as error:
        raise StorageError(
            f"the tokens of {corpus.name} cannot be written below {cache}: "
            f"{error.strerror or error}. Existing files are unchanged. Free some space, or "
            "name another folder in SPIKEFORMERS_CACHE."
        ) from error
    finally:
        if draft is not None and draft.exists():
            shutil.rmtree(draft, ignore_errors=True)
    return TokenStore(folder)


def _write(
    folder: Path,
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerFast,
    digest: str,
    progress: Move | None,
) -> None:
    dtype = np.dtype("<u2" if len(tokenizer) <= 1 << 16 else "<u4")
    end = np.array([separator_id(tokenizer)], dtype=dtype)
    bytes_read = 0
    splits: dict[str, dict[str, int]] = {}
    files: dict[str, dict[str, Any]] = {}
    for split in corpus.splits:
        counts = {"tokens": 0, "bytes": 0, "words": 0, "documents": 0}
        content, largest = new_digest(), -1
        with (folder / f"{split}.bin").open("wb") as stream:
            for ids, ends, text in _encoded(corpus, tokenizer, split):
                array = np.array(ids, dtype=dtype)
                if ends:
                    array = np.concatenate((array, end))
                    counts["documents"] += 1
                stream.write(array.data)
                content.update(array.data)
                counts["tokens"] += len(array)
                largest = max(largest, int(array.max()) if len(array) else -1)
                size = len(text.encode("utf-8"))
                counts["bytes"] += size
                counts["words"] += len(text.split())
                bytes_read += size
                if progress is not None:
                    progress(bytes_read, corpus.num_bytes)
            stream.flush()
            os.fsync(stream.fileno())
        splits[split] = counts
        files[split] = {DIGEST: content.hexdigest(), "largest_id": largest}
    manifest = {
        "format_version": FORMAT_VERSION,
        "dtype": dtype.str,
        "corpus": {"name": corpus.name, "digest": corpus.digest, "split_by": corpus.split_by},
        "tokenizer": {"digest": digest, "vocab_size": len(tokenizer)},
        "separator_id": int(end[0]),
        "splits": splits,
        FILES: files,
    }
    manifest[DIGEST] = _manifest_digest(manifest)
    with (folder / MANIFEST).open("w", encoding="utf-8") as out:
        json.dump(manifest, out, indent=2)
        out.flush()
        os.fsync(out.fileno())


def _manifest_digest(manifest: dict[str, Any]) -> str:
    return digest_of([json.dumps(manifest, sort_keys=True).encode()])


def _encoded(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, split: str
) -> Iterator[tuple[list[int], bool, str]]:
    """``(ids, whether a document ends here, text)`` of every piece of every document.

    Special tokens that are spelled out in the text are encoded as text, so that a text cannot
    contain a false end of document.
    """
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_padding()
    backend.no_truncation()
    backend.encode_special_tokens = True
    for pieces in _batches(_pieces(corpus.documents(split), corpus.continuous)):
        with encoding(f"the text of {corpus.name}"):
            encodings = backend.encode_batch_fast(
                [text for text, _ in pieces], add_special_tokens=False
            )
        for (text, ends), encoded in zip(pieces, encodings, strict=True):
            yield encoded.ids, ends, text


def _pieces(documents: Iterable[str], continuous: bool) -> Iterator[tuple[str, bool]]:
    """Documents in pieces of about PIECE characters, cut at a space between two letters."""
    started = False
    for text in documents:
        started = True
        start = 0
        while len(text) - start > PIECE:
            space = _CUT.search(text, start + PIECE // 2, start + PIECE)
            stop = space.start() if space else start + PIECE
            yield text[start:stop], False
            start = stop
        yield text[start:], not continuous
    if continuous and started:
        yield "", True


def _batches(pieces: Iterable[tuple[str, bool]]) -> Iterator[list[tuple[str, bool]]]:
    held: list[tuple[str, bool]] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece[0])
        if size >= BATCH:
            yield held
            held, size = [], 0
    if held:
        yield held


def _put_in_place(draft: Path, folder: Path) -> None:
    """Rename the finished draft; if another process was first, its store is used."""
    if folder.exists():
        try:
            TokenStore(folder)
            return
        except DataError:  # the damaged one that the caller has warned of
            aside = draft.with_name(draft.name + "-damaged")
            os.replace(folder, aside)
            shutil.rmtree(aside)
    try:
        os.replace(draft, folder)
    except OSError:
        if not (folder / MANIFEST).is_file():
            raise


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        np.dtype(manifest["dtype"])
        if manifest["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format version {manifest['format_version']}")
        if FILES not in manifest:
            raise ValueError("an older version wrote it, without digests to check its files by")
        for name, counts in manifest["splits"].items():
            numbers = counts | manifest[FILES][name]
            for key in ("tokens", "bytes", "words", "documents", "largest_id"):
                if type(numbers[key]) is not int:
                    raise TypeError(f"{key} is {numbers[key]!r}")
        if manifest.pop(DIGEST, None) != _manifest_digest(manifest):
            raise ValueError("its content is not what was written")
    except FileNotFoundError as error:
        raise DataError(f"{folder} is not a token store: it has no {MANIFEST}.") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"the token store {folder} is damaged: {MANIFEST} cannot be used ({error}). "
            "Delete the folder to make it again."
        ) from error
    return dict(manifest)
