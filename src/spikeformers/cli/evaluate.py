"""``spikeformers evaluate``: how well a model predicts a text, or agrees with another."""

from __future__ import annotations

from typing import Annotated

import typer

from spikeformers.cli._options import Data, Json, Model, Split, TextField
from spikeformers.errors import ConfigError


def perplexity(
    model: Model,
    data: Data,
    split: Split = "validation",
    context: Annotated[
        int | None,
        typer.Option(min=2, help="Tokens in a window.", show_default="as trained"),
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens a window advances by.", show_default="half a window"),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Cut the text here.", show_default="all of it")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Windows at once.")] = 8,
    text_field: TextField = "text",
    as_json: Json = False,
) -> None:
    """Perplexity per token and per word, and bits per byte, by a sliding window.

    Every token is scored once, after at least context - stride tokens (fewer only at the
    beginning). Bits per byte compare across tokenizers, perplexity per token does not. A masked
    model gets the loss, accuracy and perplexity of masked tokens instead.

    JSON: kind (causal, masked), context, stride, tokens, bytes, words, nats_per_token,
    perplexity, word_perplexity, bits_per_byte, masked_loss, masked_accuracy, masked_perplexity,
    mask_seed, mask_probability (null where a kind has none); model, data, split, sha256 of the
    text.
    """
    from spikeformers.cli._output import (
        counting_bar,
        make_table,
        print_json,
        print_table,
        start,
        tokenize,
    )
    from spikeformers.data import load_corpus
    from spikeformers.evaluation import perplexity as measure
    from spikeformers.models import load_model

    start(verbose=False)
    loaded, tokenizer = load_model(model)
    corpus = load_corpus(data, text_field=text_field)
    part = tokenize(corpus, tokenizer).split(split)
    with counting_bar("scoring") as move:
        report = measure(
            loaded,
            tokenizer,
            part,
            context=context,
            stride=stride,
            max_tokens=max_tokens,
            batch_size=batch_size,
            progress=move,
        )
    result = report.as_dict()
    if as_json:
        asked = {"model": str(model), "data": data, "split": split, "sha256": corpus.digest}
        print_json(result | asked)
        return
    units = {
        "bits_per_byte": ("bits per byte", "{:.4f}"),
        "perplexity": ("perplexity per token", "{:,.2f}"),
        "word_perplexity": ("perplexity per word", "{:,.2f}"),
        "nats_per_token": ("loss, nats a token", "{:.4f}"),
        "masked_loss": ("loss, nats a masked token", "{:.4f}"),
        "masked_perplexity": ("perplexity per masked token", "{:,.2f}"),
        "masked_accuracy": ("accuracy on masked tokens", "{:.4f}"),
    }
    rows = [
        (title, form.format(result[key]))
        for key, (title, form) in units.items()
        if result[key] is not None
    ]
    sizes = f"{report.tokens:,} tokens, {report.words:,} words, {report.bytes:,} bytes"
    rows += [("text", f"{corpus.name}, {split}: {sizes}")]
    rows += [("window", f"{report.context} tokens, stride {report.stride}")]
    print_table(make_table("", (str(model), report.kind), rows))


def agreement(
    model: Model,
    data: Data,
    reference: Annotated[
        str,
        typer.Option(
            help="Model to agree with: a folder, or a name on the hub.", show_default=False
        ),
    ],
    gguf_file: Annotated[str, typer.Option(help="GGUF file of the reference.")] = "",
    split: Split = "validation",
    context: Annotated[
        int | None,
        typer.Option(min=2, help="Tokens in a window.", show_default="as trained"),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Cut the text here.", show_default="all of it")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Windows at once.")] = 8,
    text_field: TextField = "text",
    as_json: Json = False,
) -> None:
    """Agreement of a causal model with another of the same tokenizer, such as its teacher.

    The share of positions where both find the same next token likeliest, the KL divergence from
    the reference in nats a token, and the mean cosine of the centred logits.

    JSON: tokens, context, agreement, kl, cosine; model, reference, data, split, sha256 of the text.
    """
    from spikeformers.cli._output import (
        counting_bar,
        make_table,
        print_json,
        print_table,
        start,
        tokenize,
    )
    from spikeformers.data import load_corpus
    from spikeformers.evaluation import agreement as measure
    from spikeformers.evaluation import context_of
    from spikeformers.models import load_reference

    start(verbose=False)
    loaded, tokenizer = load_reference(str(model))
    other, others = load_reference(reference, gguf_file=gguf_file)
    if tokenizer.get_vocab() != others.get_vocab():
        raise ConfigError(
            f"{model} and {reference} have different tokenizers: there is no token by token."
        )
    corpus = load_corpus(data, text_field=text_field)
    part = tokenize(corpus, tokenizer).split(split)
    with counting_bar("comparing") as move:
        report = measure(
            loaded,
            other,
            part,
            context=context_of(loaded) if context is None else context,
            max_tokens=max_tokens,
            batch_size=batch_size,
            progress=move,
        )
    if as_json:
        asked = {"model": str(model), "reference": reference, "data": data, "split": split}
        print_json(report.as_dict() | asked | {"sha256": corpus.digest})
        return
    rows = [
        ("same likeliest token", f"{report.agreement:.4f} of tokens"),
        ("KL from the reference", f"{report.kl:.4f} nats a token"),
        ("cosine of logits", f"{report.cosine:.4f}"),
        ("text", f"{corpus.name}, {split}: {report.tokens:,} tokens"),
        ("window", f"{report.context} tokens"),
    ]
    print_table(make_table("", (str(model), reference), rows))
