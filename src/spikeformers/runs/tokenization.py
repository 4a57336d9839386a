"""Tokens of a corpus of any size, in shards, before any training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikeformers.data import (
    TokenStore,
    make_tokenizer,
    read_store_tokenizer,
    stream_corpus,
    tokenize_shards,
)
from spikeformers.data.sharding import SHARD_TOKENS
from spikeformers.errors import ConfigError, DataError
from spikeformers.meters import Stopwatch
from spikeformers.progress import Listener
from spikeformers.runs.recipe import DEFAULT_TOKENIZER
from spikeformers.runs.reporter import OnMessage, Reporter
from spikeformers.storage import check_folder, check_unlocked

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MADE_WITH = (
    "made_with"  # key of a store's manifest: the keys of a recipe's data section, and masked
)
STAGE = "tokenising"


@dataclass(frozen=True)
class TokenizeResult:
    """A complete token store; ``seconds`` are those of this call, without reading the tokenizer."""

    store: TokenStore
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """The figures, as the command line prints them with ``--json``."""
        manifest = self.store.manifest
        shards = {name: len(self.store.split(name).shards) for name in self.store.splits}
        return {
            "out": str(self.store.folder),
            "splits": {k: {**v, "shards": shards[k]} for k, v in manifest["splits"].items()},
            "dtype": manifest["dtype"],
            "vocab_size": manifest["tokenizer"]["vocab_size"],
            "content": manifest["content"],
            "seconds": self.seconds,
        }


def tokenize(
    source: str | Path,
    *,
    out: str | Path,
    tokenizer: str = DEFAULT_TOKENIZER,
    workers: int = 1,
    masked: bool = False,
    shard_tokens: int = SHARD_TOKENS,
    text_field: str = "text",
    validation_fraction: float = 0.05,
    config_name: str | None = None,
    progress: Listener | None = None,
    on_message: OnMessage | None = None,
) -> TokenizeResult:
    """Tokenise ``source`` into the token store ``out``, for ``pretrain(data=out)``.

    ``source``, ``text_field``, ``validation_fraction`` and ``config_name`` are those of
    `spikeformers.data.load_corpus`, but a data set of the hub is streamed and never stored.
    ``tokenizer`` as for `pretrain`; ``masked`` makes it one for masked models. ``workers``
    processes encode. A shard is complete with its ``shard_tokens``-th token or soon after it.

    The same call continues what was interrupted, and ends with the same store, byte for byte.
    Raises what `spikeformers.data.tokenize_shards` and `make_tokenizer` raise.
    """
    folder, reporter = Path(out), Reporter(progress, on_message)
    check_folder(folder)
    check_unlocked(folder)
    reporter.stage("looking at the text")
    corpus = stream_corpus(
        source,
        text_field=text_field,
        validation_fraction=validation_fraction,
        config_name=config_name,
    )
    reporter.stage("making the tokenizer")
    made = make_tokenizer(tokenizer, corpus, masked=masked)
    made_with = {
        "tokenizer": tokenizer,
        "masked": masked,
        "text_field": text_field,
        "validation_fraction": validation_fraction,
        "config_name": config_name,
    }
    watch = Stopwatch()
    store = tokenize_shards(
        corpus,
        made,
        folder,
        workers=workers,
        shard_tokens=shard_tokens,
        facts={MADE_WITH: made_with},
        progress=reporter.stage(STAGE, "bytes"),
    )
    return TokenizeResult(store, watch.read().wall)


def open_store(
    source: str | Path, given: Mapping[str, Any], *, masked: bool, content: bool = True
) -> tuple[dict[str, Any], PreTrainedTokenizerFast, TokenStore]:
    """The keys of a recipe's data section, the tokenizer and the tokens of a store of shards.

    ``given`` are keys of that section that a request states. Raises ConfigError if the store was
    made with others or for another kind of model, DataError if it is damaged or of the cache.
    """
    store = TokenStore(source, content=content)
    made_with = store.manifest.get(MADE_WITH)
    if not isinstance(made_with, dict):
        raise DataError(
            f"{source} is a token store of the cache, which does not say how it was made. Name the "
            "text itself, or make a store with spikeformers tokenize."
        )
    for key, value in given.items():
        if key in made_with and value != made_with[key]:
            raise ConfigError(
                f"the token store {source} was made with {key}={made_with[key]!r}, and {key} is "
                f"now {value!r}. Leave it out, or tokenise the text again."
            )
    if made_with["masked"] != masked:
        kinds = {False: "next-token models", True: "masked models (--masked)"}
        raise ConfigError(
            f"the token store {source} was made for {kinds[made_with['masked']]}; this preset "
            f"needs one for {kinds[masked]}."
        )
    data = {key: value for key, value in made_with.items() if key != "masked"}
    return {"source": str(source), **data}, read_store_tokenizer(store), store
