"""A corpus of any size as a token store of shards, by several processes, resumable at any moment.

    STORE/
        tokenizer/               as `save_pretrained` writes it
        train-00000.bin ...      at least ``shard_tokens`` ids each, the last one fewer
        manifest.json            written last: with it the store is complete
        draft.json  *.part       while the store is incomplete

A shard ends with the batch that fills it, and batches depend on the documents only. So a store is
the same, byte for byte, with any number of workers and after any number of interruptions. The draft
lists the complete shards; an interrupted run is continued by reading past their batches without
encoding them. At most one shard of work is lost.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikeformers.data.corpora import Corpus
from spikeformers.data.encoding import Counts, Encoded, Rules, batches, dtype_of, encoded
from spikeformers.data.shards import MANIFEST, Shard
from spikeformers.data.store import (
    DIGEST,
    FILES,
    SHARDED_VERSION,
    TOKENIZER,
    TokenStore,
    write_manifest,
)
from spikeformers.data.tokenizers import load_tokenizer, tokenizer_digest
from spikeformers.errors import ConfigError, DataError, StorageError, UsageError
from spikeformers.foreign import check_object, read_json
from spikeformers.progress import Move
from spikeformers.storage import LEFT_OVER, digest_of, new_digest, replacing, run_lock, write_text
from spikeformers.values import shortened

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

DRAFT = "draft.json"
PARTIAL = ".part"
SHARD_TOKENS = 1 << 26  # 134 MB at two bytes per id
MOST_WORKERS = 256
ENTRY: dict[str, Any] = {
    **{"name": str, "tokens": int, DIGEST: str, "largest_id": int},
    **{"batches": int, "counts": dict[str, int]},
}
"""Keys of a complete shard in the draft, and their types; the first four go into the manifest."""
FILE = tuple(ENTRY)[:4]


@dataclass
class _Draft:
    """The complete shards of each split, and the request that they answer."""

    request: dict[str, Any]
    splits: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Per shard the keys of ENTRY."""
    read: list[str] = field(default_factory=list)
    """The splits that were read to their end."""

    def write(self, folder: Path) -> None:
        write_text(folder / DRAFT, json.dumps(asdict(self), indent=2) + "\n")

    @property
    def bytes_read(self) -> int:
        """Bytes of text in all shards."""
        return sum(shard["counts"]["bytes"] for listed in self.splits.values() for shard in listed)


def tokenize_shards(
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerFast,
    out: str | Path,
    *,
    workers: int = 1,
    shard_tokens: int = SHARD_TOKENS,
    facts: dict[str, Any] | None = None,
    progress: Move | None = None,
) -> TokenStore:
    """Write the tokens of ``corpus`` into the folder ``out``, or continue what is incomplete there.

    ``workers`` processes encode; ``shard_tokens`` is the number of tokens from which a shard is
    complete. ``facts`` are further keys of the manifest. ``progress`` is called with the bytes of
    text that are stored. A complete store of the same request is opened.

    Raises UsageError for a folder that holds anything else, ConfigError for another request than
    the draft's, DataError for text that cannot be read or encoded, StorageError if the disk
    refuses a write.
    """
    for name, value, most in (
        ("workers", workers, MOST_WORKERS),
        ("shard_tokens", shard_tokens, 0),
    ):
        if value < 1 or (most and value > most):
            limit = f"between 1 and {most}" if most else "1 or greater"
            raise ConfigError(f"{name} is {value}; it must be {limit}.")
    folder = Path(out)
    request = _request(corpus, tokenizer, shard_tokens, facts or {})
    with run_lock(folder):
        if (folder / MANIFEST).exists():
            return _complete_store(folder, request)
        draft = _open_draft(folder, request, tokenizer)
        rules = Rules.of(tokenizer)
        if progress is not None:
            progress(draft.bytes_read, corpus.num_bytes)
        for split in corpus.splits:
            listed = draft.splits.setdefault(split, [])
            if split in draft.read:
                continue
            for entry in _shards(folder, draft, corpus, split, rules, workers, progress):
                listed.append(entry)
                draft.write(folder)
            draft.read.append(split)
            draft.write(folder)
        _finish(folder, draft)
    return TokenStore(folder, content=False)


def read_store_tokenizer(store: TokenStore) -> PreTrainedTokenizerFast:
    """The tokenizer that a store of shards was made with; DataError if it is damaged."""
    if store.tokenizer_folder is None:
        raise DataError(f"{store.folder} has no folder {TOKENIZER!r}: its tokenizer is not known.")
    tokenizer: PreTrainedTokenizerFast = load_tokenizer(store.tokenizer_folder, DataError)
    if tokenizer_digest(tokenizer) != store.manifest["tokenizer"]["digest"]:
        raise DataError(
            f"the tokenizer in {store.tokenizer_folder} is not the one that made the tokens. "
            "Copy the store again, or make it again."
        )
    return tokenizer


def _request(
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerFast,
    shard_tokens: int,
    facts: dict[str, Any],
) -> dict[str, Any]:
    """What the bytes of a store depend on."""
    digest = tokenizer_digest(tokenizer)
    return {
        "format_version": SHARDED_VERSION,
        "dtype": dtype_of(tokenizer).str,
        "corpus": {"name": corpus.name, "digest": corpus.digest, "split_by": corpus.split_by},
        "tokenizer": {"digest": digest, "vocab_size": len(tokenizer)},
        "separator_id": Rules.of(tokenizer).separator,
        "shard_tokens": shard_tokens,
        **facts,
    }


def _complete_store(folder: Path, request: dict[str, Any]) -> TokenStore:
    store = TokenStore(folder)
    _same(folder, {key: store.manifest.get(key) for key in request}, request)
    with suppress(FileNotFoundError):  # the last run was stopped between its last two acts
        (folder / DRAFT).unlink()
    return store


def _open_draft(
    folder: Path, request: dict[str, Any], tokenizer: PreTrainedTokenizerFast
) -> _Draft:
    """The draft in ``folder``, without shards that are damaged; a new one in an empty folder."""
    path = folder / DRAFT
    if not path.is_file():
        strangers = sorted(
            p.name
            for p in folder.iterdir()
            if p.name not in ("run.lock", TOKENIZER) and not p.match(LEFT_OVER)
        )
        if strangers:
            raise UsageError(
                f"{folder} already holds {strangers[0]!r}, and no token store. Name another --out."
            )
        with _storage_errors(folder):
            tokenizer.save_pretrained(folder / TOKENIZER)
        draft = _Draft(request)
        draft.write(folder)
        return draft
    advice = f"Delete {folder} to begin again."
    schema = {"request": dict, "splits": dict[str, list[Any]], "read": list[str]}
    content = read_json(path, DataError, advice, schema)
    for entry in (entry for listed in content["splits"].values() for entry in listed):
        check_object(entry, ENTRY, path, DataError, advice)
    _same(folder, content["request"], request)
    draft = _Draft(request, content["splits"], content["read"])
    for split, listed in draft.splits.items():
        for number, entry in enumerate(listed):
            if problem := _shard(folder, entry).problem(request["dtype"]):
                logger.warning("%s. It and the shards after it are made again.", problem)
                del listed[number:]
                draft.read = [name for name in draft.read if name != split]
                break
    return draft


def _same(folder: Path, before: dict[str, Any], request: dict[str, Any]) -> None:
    """Raise ConfigError, which names the key, unless two requests are equal."""
    for key, value in request.items():
        if before.get(key) != value:
            raise ConfigError(
                f"{folder} was begun with another {key}: {shortened(before.get(key))}, now "
                f"{shortened(value)}. Name another --out, or delete the folder to begin again."
            )


def _shard(folder: Path, entry: dict[str, Any]) -> Shard:
    return Shard(folder / entry["name"], entry["tokens"], entry[DIGEST], entry["largest_id"])


def _shards(
    folder: Path,
    draft: _Draft,
    corpus: Corpus,
    split: str,
    rules: Rules,
    workers: int,
    progress: Move | None,
) -> Iterator[dict[str, Any]]:
    """Write the shards of a split that are missing; yields the entry of each when it is durable."""
    before = draft.splits.get(split, [])
    stored, number = draft.bytes_read, len(before)
    pieces = batches(corpus.documents(split), corpus.continuous)
    todo = islice(pieces, sum(entry["batches"] for entry in before), None)
    with closing(encoded(rules, todo, corpus.name, workers)) as stream:
        while (batch := next(stream, None)) is not None:
            shard = _ShardFacts(folder / f"{split}-{number:05d}.bin")
            with _storage_errors(folder), shard.path.with_suffix(PARTIAL).open("wb") as file:
                while batch is not None:
                    file.write(batch.content)
                    shard.add(batch)
                    stored += batch.counts.bytes
                    if progress is not None:
                        progress(stored, corpus.num_bytes)
                    full = shard.counts.tokens >= draft.request["shard_tokens"]
                    batch = None if full else next(stream, None)
                file.flush()
                os.fsync(file.fileno())
                os.replace(file.name, shard.path)
            yield shard.entry()
            number += 1


class _ShardFacts:
    """The facts of a shard while it is written."""

    def __init__(self, path: Path) -> None:
        self.path, self.counts, self.batches, self.largest_id = path, Counts(), 0, -1
        self._digest = new_digest()

    def add(self, batch: Encoded) -> None:
        self._digest.update(batch.content)
        self.counts.add(batch.counts)
        self.batches += 1
        self.largest_id = max(self.largest_id, batch.largest_id)

    def entry(self) -> dict[str, Any]:
        return {
            "name": self.path.name,
            "tokens": self.counts.tokens,
            DIGEST: self._digest.hexdigest(),
            "largest_id": self.largest_id,
            "batches": self.batches,
            "counts": asdict(self.counts),
        }


def _finish(folder: Path, draft: _Draft) -> None:
    """Write the manifest, and remove the draft and what an interrupted run left."""
    splits: dict[str, dict[str, int]] = {}
    files: dict[str, list[dict[str, Any]]] = {}
    for split, listed in draft.splits.items():
        counts = Counts()
        for entry in listed:
            counts.add(Counts(**entry["counts"]))
        splits[split] = asdict(counts)
        files[split] = [{key: entry[key] for key in FILE} for entry in listed]
    content = digest_of(file[DIGEST].encode() for listed in files.values() for file in listed)
    manifest = draft.request | {"content": content, "splits": splits, FILES: files}
    known = {file["name"] for listed in files.values() for file in listed}
    with _storage_errors(folder):
        for path in (*folder.glob(f"*{PARTIAL}"), *folder.glob("*.bin"), *folder.glob(LEFT_OVER)):
            if path.name not in known:
                path.unlink()
        with replacing(folder / MANIFEST) as temporary:
            write_manifest(temporary, manifest)
        (folder / DRAFT).unlink()


@contextmanager
def _storage_errors(folder: Path) -> Iterator[None]:
    """Raise StorageError, which says that the run can be continued, for a refused write."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"the tokens cannot be written into {folder}: {error.strerror or error}. "
            "The complete shards are kept: free some space and run the same command again."
        ) from error
