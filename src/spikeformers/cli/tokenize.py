"""``spikeformers tokenize``: a token store of shards, of a corpus of any size."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from spikeformers.cli._options import Json, TextField


def tokenize(
    source: Annotated[
        str,
        typer.Argument(
            help="Text: builtin, a text, JSONL or Parquet file, a folder, a data set on the hub.",
            metavar="SOURCE",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the token store.", metavar="STORE")],
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="byte, bpe:SIZE (trained on the text), a folder, or a name on the hub.",
            show_default="as pretrain's",
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that encode.")] = 1,
    masked: Annotated[
        bool, typer.Option("--masked", help="Tokens for masked models, such as we-spikingformer.")
    ] = False,
    shard_tokens: Annotated[
        int | None,
        typer.Option(
            min=1, help="Tokens from which a shard is complete.", show_default="67 million"
        ),
    ] = None,
    text_field: TextField = "text",
    validation_fraction: Annotated[
        float,
        typer.Option(min=0.0, help="Share of documents to hold out, if the text has no splits."),
    ] = 0.05,
    config_name: Annotated[
        str | None,
        typer.Option("--config-name", help="Configuration of a data set on the hub."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Tokenise a corpus of any size into shards, for pretrain --data STORE.

    Examples:
    spikeformers tokenize my_texts/ --out stores/mine --tokenizer bpe:8192 --workers 8

    spikeformers tokenize HuggingFaceFW/fineweb-edu --config-name sample-10BT
    --tokenizer openai-community/gpt2 --out stores/fineweb --workers 16

    Text is streamed: files are read piece by piece, a data set of the hub row by row, and neither
    is held in memory nor stored. bpe:SIZE reads all training text once more before, and its memory
    grows with the number of different words; for a large corpus name a tokenizer that exists. The
    same command continues what was interrupted, after a kill too, and ends with the same store,
    byte for byte. Shards have their digests in STORE/manifest.json, and STORE/tokenizer is the
    tokenizer that pretrain then uses.

    JSON: out, splits (by name: tokens, bytes, words, documents, shards), dtype, vocab_size, content
    (digest of all shards), seconds.
    """
    from spikeformers.cli._output import make_table, on_terminal, print_json, print_table, say

    optional: dict[str, Any] = {"tokenizer": tokenizer, "shard_tokens": shard_tokens}
    optional = {key: value for key, value in optional.items() if value is not None}
    try:
        with on_terminal() as callbacks:
            from spikeformers import runs

            result = runs.tokenize(
                source, out=out, workers=workers, masked=masked, text_field=text_field,
                validation_fraction=validation_fraction, config_name=config_name, **optional,
                **callbacks,
            )  # fmt: skip
    except KeyboardInterrupt:
        say("Stopped; the same command continues.")
        raise
    facts = result.as_dict()
    if as_json:
        print_json(facts)
        return
    rows = [
        (
            name,
            f"{split['tokens']:,} tokens, {split['bytes'] / 1e6:,.1f} MB of text, "
            f"shards: {split['shards']:,}",
        )
        for name, split in facts["splits"].items()
    ]
    rows += [("vocabulary", f"{facts['vocab_size']:,}"), ("time", f"{facts['seconds']:,.1f} s")]
    print_table(make_table("", ("tokens", str(out)), rows))
