"""Tokens on disk, written once and memory-mapped: the files of each split, and a manifest.

    CACHE/tokens-<key>/   key: digests of the corpus, the tokenizer and this format
        manifest.json     counts per split, dtype, digests; per file its XXH3 and largest id
        train.bin ...     little-endian uint16 or uint32 token ids, a separator after each document

A store of the cache (format 1) has one file per split. It is written under a temporary name and
renamed when complete, so a reader never sees a partial one, and a failed write leaves the old one.
A store that `tokenize_shards` made (format 2) has any number, ``train-00000.bin`` and so on, and
its tokenizer beside them. Opening reads every file once and compares digests.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spikeformers.data.corpora import Corpus
from spikeformers.data.encoding import Counts, Encoder, Rules, batches, dtype_of
from spikeformers.data.shards import MANIFEST, Shard, ShardedTokens
from spikeformers.data.tokenizers import separator_id, tokenizer_digest
from spikeformers.errors import DataError, StorageError, nearest
from spikeformers.progress import Move
from spikeformers.storage import digest_of, draft_of, new_digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1  # of a store with one file per split
SHARDED_VERSION = 2
FILES = "files"  # key of the manifest: checks of its files; not copied into a run's record
DIGEST = "xxh3"  # key of a file's digest there, and of the manifest's own
TOKENIZER = "tokenizer"  # the folder of the tokenizer in a store of format 2


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
    shards: tuple[Shard, ...] = ()
    """Its files in order, if it has several; ``path`` is the first of them."""

    @cached_property
    def tokens(self) -> NDArray[Any] | ShardedTokens:
        """Token ids, 1-D, memory-mapped read-only; those of several files as `ShardedTokens`."""
        if self.num_tokens == 0:
            return np.empty(0, dtype=self.dtype)
        if len(self.shards) > 1:
            return ShardedTokens(self.shards, self.dtype)
        return np.memmap(self.path, dtype=self.dtype, mode="r", shape=(self.num_tokens,))

    def check_vocabulary(self, size: int) -> None:
        """Raise ``DataError`` if an id lies beyond a model's vocabulary of ``size`` tokens."""
        largest = self.largest_id
        if largest is None:
            largest = int(np.asarray(self.tokens).max()) if self.num_tokens else -1
        if largest >= size:
            raise DataError(
                f"the {self.name} text holds the token id {largest}, and the model's vocabulary is "
                f"{size}: another tokenizer made it. Tokenise the text with the model's own."
            )


class TokenStore:
    """A tokenised corpus on disk.

    Opening checks size and digest of every file against the manifest (only the size unless
    ``content``); DataError, which names the file, if they differ.
    """

    def __init__(self, folder: str | Path, *, content: bool = True) -> None:
        self.folder = Path(folder)
        self.manifest: dict[str, Any] = read_manifest(self.folder)
        files = self.manifest.pop(FILES)
        self._shards = {
            name: tuple(
                Shard(self.folder / file["name"], file["tokens"], file[DIGEST], file["largest_id"])
                for file in listed
            )
            for name, listed in files.items()
        }
        for shards in self._shards.values():
            for shard in shards:
                if problem := shard.problem(self.manifest["dtype"], content=content):
                    again = "Delete the folder to make it again."
                    raise DataError(f"the token store {folder} is damaged: {problem}. {again}")

    @property
    def tokenizer_folder(self) -> Path | None:
        """The folder of the store's own tokenizer; None for a store of the cache."""
        folder = self.folder / TOKENIZER
        return folder if folder.is_dir() else None

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
        counts, shards = self.manifest["splits"][name], self._shards[name]
        return TokenSplit(
            name=name,
            path=shards[0].path if shards else self.folder,
            dtype=self.manifest["dtype"],
            num_tokens=counts["tokens"],
            num_bytes=counts["bytes"],
            num_words=counts["words"],
            num_documents=counts["documents"],
            largest_id=max((shard.largest_id for shard in shards), default=-1),
            shards=shards,
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
    try:
        with draft_of(folder) as draft:
            _write(draft, corpus, tokenizer, digest, progress)
            _put_in_place(draft, folder)
    except OSError as error:
        raise StorageError(
            f"the tokens of {corpus.name} cannot be written below {cache}: "
            f"{error.strerror or error}. Existing files are unchanged. Free some space, or "
            "name another folder in SPIKEFORMERS_CACHE."
        ) from error
    return TokenStore(folder)


def _write(
    folder: Path,
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerFast,
    digest: str,
    progress: Move | None,
) -> None:
    encoder, bytes_read = Encoder(Rules.of(tokenizer)), 0
    splits: dict[str, dict[str, int]] = {}
    files: dict[str, dict[str, Any]] = {}
    for split in corpus.splits:
        counts, content, largest = Counts(), new_digest(), -1
        with (folder / f"{split}.bin").open("wb") as stream:
            for pieces in batches(corpus.documents(split), corpus.continuous):
                batch = encoder(pieces, corpus.name)
                stream.write(batch.content)
                content.update(batch.content)
                counts.add(batch.counts)
                largest = max(largest, batch.largest_id)
                bytes_read += batch.counts.bytes
                if progress is not None:
                    progress(bytes_read, corpus.num_bytes)
            stream.flush()
            os.fsync(stream.fileno())
        splits[split] = asdict(counts)
        files[split] = {DIGEST: content.hexdigest(), "largest_id": largest}
    manifest = {
        "format_version": FORMAT_VERSION,
        "dtype": dtype_of(tokenizer).str,
        "corpus": {"name": corpus.name, "digest": corpus.digest, "split_by": corpus.split_by},
        "tokenizer": {"digest": digest, "vocab_size": len(tokenizer)},
        "separator_id": separator_id(tokenizer),
        "splits": splits,
        FILES: files,
    }
    write_manifest(folder / MANIFEST, manifest)


def write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    """Write a store's manifest, with its own digest, durably but not atomically."""
    with path.open("w", encoding="utf-8") as out:
        json.dump(manifest | {DIGEST: _manifest_digest(manifest)}, out, indent=2)
        out.flush()
        os.fsync(out.fileno())


def _manifest_digest(manifest: dict[str, Any]) -> str:
    return digest_of([json.dumps(manifest, sort_keys=True).encode()])


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


def read_manifest(folder: Path) -> dict[str, Any]:
    """The checked manifest of a store; per split its files as a list, whatever the format.

    Raises DataError if there is none, or if it is damaged.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        np.dtype(manifest["dtype"])
        if manifest["format_version"] not in (FORMAT_VERSION, SHARDED_VERSION):
            raise ValueError(f"format version {manifest['format_version']}")
        if FILES not in manifest:
            raise ValueError("an older version wrote it, without digests to check its files by")
        written = manifest.pop(DIGEST, None)
        digest = _manifest_digest(manifest)
        if manifest["format_version"] == FORMAT_VERSION:
            _list_files(manifest)
        for name, counts in manifest["splits"].items():
            listed = manifest[FILES][name]
            numbers = [(counts, key) for key in asdict(Counts())]
            numbers += [(file, key) for file in listed for key in ("tokens", "largest_id")]
            for values, key in numbers:
                if type(values[key]) is not int:
                    raise TypeError(f"{key} is {values[key]!r}")
            if strange := [f["name"] for f in listed if Path(f["name"]).name != f["name"]]:
                raise ValueError(f"it names a file elsewhere, {strange[0]!r}")
        if written != digest:
            raise ValueError("its content is not what was written")
    except FileNotFoundError as error:
        raise DataError(f"{folder} is not a token store: it has no {MANIFEST}.") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"the token store {folder} is damaged: {MANIFEST} cannot be used ({error}). "
            "Delete the folder to make it again."
        ) from error
    return dict(manifest)


def _list_files(manifest: dict[str, Any]) -> None:
    """Describe the one file per split of format 1 as format 2 does."""
    manifest[FILES] = {
        name: [{"name": f"{name}.bin", "tokens": counts["tokens"], **manifest[FILES][name]}]
        for name, counts in manifest["splits"].items()
    }
