"""``spikeformers evaluate``: how well a model predicts a text, agrees with another, or sees."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spikeformers.cli._options import Data, Json, Model, Root, Split, TextField
from spikeformers.errors import ConfigError

Tokens = Annotated[
    int | None,
    typer.Option("--tokens", min=1, help="Tokens of the text.", show_default="all of it"),
]

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from spikeformers.evaluation import Entropy, VisionReport
    from spikeformers.training.vision import ImageStore

SENSIBLE = 100_000  # a perplexity per word beyond it, more than there are words, tells nothing


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
    tokens: Tokens = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Windows at once.")] = 8,
    text_field: TextField = "text",
    as_json: Json = False,
) -> None:
    """Perplexity per token and per word, and bits per byte, by a sliding window.

    Every token is scored once, after at least context - stride tokens (fewer only at the
    beginning). Bits per byte compare across tokenizers, perplexity per token does not. A masked
    model gets the loss, accuracy and perplexity of masked tokens instead. A perplexity per word of
    100,000 and more is left out of the table: it says that words are spelled from tokens that the
    model hardly knows.

    JSON: kind (causal, masked), context, stride, tokens, bytes, words, nats_per_token,
    perplexity, word_perplexity, bits_per_byte, masked_loss, masked_accuracy, masked_perplexity,
    mask_seed, mask_probability (null where a kind has none); model, data, split, sha256 of the
    text.
    """
    from spikeformers.cli._output import make_table, print_json, print_table, start, tokenize
    from spikeformers.data import load_corpus
    from spikeformers.evaluation import perplexity as measure
    from spikeformers.models import load_model
    from spikeformers.progress import Progress

    start(verbose=False)
    loaded, tokenizer = load_model(model)
    corpus = load_corpus(data, text_field=text_field)
    part = tokenize(corpus, tokenizer).split(split)
    with Progress() as progress:
        report = measure(
            loaded,
            tokenizer,
            part,
            context=context,
            stride=stride,
            max_tokens=tokens,
            batch_size=batch_size,
            progress=progress.stage("scoring", "tokens"),
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
        if result[key] is not None and (key != "word_perplexity" or result[key] < SENSIBLE)
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
    tokens: Tokens = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Windows at once.")] = 8,
    text_field: TextField = "text",
    as_json: Json = False,
) -> None:
    """Agreement of a causal model with another of the same tokenizer, such as its teacher.

    The share of positions where both find the same next token likeliest, the KL divergence from
    the reference in nats a token, and mean cosines: of the logits, less their mean and as they
    are, and of the last hidden states where their widths are the same.

    JSON: tokens, context, agreement, kl, cosine, logit_cosine, hidden_cosine; model, reference,
    data, split, sha256 of the text.
    """
    from spikeformers.cli._output import make_table, print_json, print_table, start, tokenize
    from spikeformers.data import load_corpus
    from spikeformers.evaluation import agreement as measure
    from spikeformers.evaluation import context_of
    from spikeformers.models import load_reference
    from spikeformers.progress import Progress

    start(verbose=False)
    loaded, tokenizer = load_reference(str(model))
    other, others = load_reference(reference, gguf_file=gguf_file)
    if tokenizer.get_vocab() != others.get_vocab():
        raise ConfigError(
            f"{model} and {reference} have different tokenizers: there is no token by token."
        )
    corpus = load_corpus(data, text_field=text_field)
    part = tokenize(corpus, tokenizer).split(split)
    with Progress() as progress:
        report = measure(
            loaded,
            other,
            part,
            context=context_of(loaded) if context is None else context,
            max_tokens=tokens,
            batch_size=batch_size,
            progress=progress.stage("comparing", "tokens"),
        )
    if as_json:
        asked = {"model": str(model), "reference": reference, "data": data, "split": split}
        print_json(report.as_dict() | asked | {"sha256": corpus.digest})
        return
    rows = [
        ("same likeliest token", f"{report.agreement:.4f} of tokens"),
        ("KL from the reference", f"{report.kl:.4f} nats a token"),
        ("cosine of logits less their mean", f"{report.cosine:.4f}"),
        ("cosine of logits", f"{report.logit_cosine:.4f}"),
        (
            "cosine of last hidden states",
            "widths differ" if report.hidden_cosine is None else f"{report.hidden_cosine:.4f}",
        ),
        ("text", f"{corpus.name}, {split}: {report.tokens:,} tokens"),
        ("window", f"{report.context} tokens"),
    ]
    print_table(make_table("", (str(model), reference), rows))


def vision(
    model: Model,
    data: Annotated[
        str,
        typer.Option(
            help="digits, cifar10, cifar100, fashion-mnist, imagenet-folder, or a folder.",
            show_default=False,
        ),
    ],
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    root: Root = "",
    batch_size: Annotated[int, typer.Option(min=1, help="Images at once.")] = 64,
    images: Annotated[
        int, typer.Option(min=0, help="Images, evenly spread; 0: all.", show_default="all")
    ] = 0,
    fit: Annotated[
        bool, typer.Option("--fit", help="Convert, resize and crop images of another size or mode.")
    ] = False,
    broken: Annotated[
        str, typer.Option(help="refuse, or skip images that cannot be read (they are listed).")
    ] = "refuse",
    report: Annotated[
        Path | None,
        typer.Option(help="Write an HTML page with pictures here.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Accuracy of an image classifier, by class, and which classes it takes for which.

    Entropy of Q, K and V is measured on up to 256 of the images, beside what binary, ternary and
    real values can carry at most.

    JSON: images, accuracy (a share), loss (nats an image), per_class, confusion (true class, found
    class), entropy (layer, role, kind, bits, ceiling), skipped (name, why), model, data, split,
    sha256 of the data.
    """
    from spikeformers.cli._counting import store_of
    from spikeformers.cli._output import make_table, print_json, print_table, start
    from spikeformers.evaluation import classify, entropy_of
    from spikeformers.models import load_vision_model
    from spikeformers.progress import Progress, watched
    from spikeformers.storage import check_file

    start(verbose=False)
    if report is not None and report.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--report {report} must be the name of an HTML file.")
    if report is not None:
        check_file(report, "--report")
    loaded = load_vision_model(model)
    store = store_of(model, loaded.config, data, root, fit=fit, broken=broken)
    total = min(images or len(store.data.split(split)), len(store.data.split(split)))
    reader = store.reader(split)
    with Progress() as progress:
        move = progress.stage("classifying", "images")
        batches = store.batches(split, batch_size, images, reader=reader)
        found = classify(
            loaded, batches, store.data.classes, progress=lambda done, _: move(done, total)
        )
        some = store.batches(split, batch_size, 256, reader=reader)
        entropies = entropy_of(loaded, watched(some, progress.stage("entropy", "batches")))
    if report is not None:
        _write_report(report, model, loaded, store, split, found, entropies)
    if as_json:
        asked = {"model": str(model), "data": data, "split": split, "sha256": store.data.digest}
        more = {"entropy": [one.as_dict() for one in entropies], "skipped": reader.skipped}
        print_json(found.as_dict() | more | asked)
        return
    rows = [
        ("accuracy", f"{found.accuracy:.4f}"),
        ("loss, nats an image", f"{found.loss:.4f}"),
        ("images", f"{found.images:,} of {store.data.name}, {split}"),
    ]
    if reader.skipped:
        rows.append(("skipped", f"{len(reader.skipped)}: {', '.join(list(reader.skipped)[:8])}"))
    print_table(make_table("", (str(model), ""), rows))
    shown = [
        (name, "-" if share is None else f"{share:.4f}") for name, share in found.per_class.items()
    ]
    print_table(make_table("By class", ("class", "found"), shown))
    bits = [
        (str(e.layer + 1), e.role, e.kind, f"{e.bits:.3f}", f"{e.ceiling:.3f}") for e in entropies
    ]
    if bits:
        heads = ("block", "of", "values", "bits", "ceiling")
        print_table(make_table("Entropy, bits a value (measured)", heads, bits))


def _write_report(
    path: Path,
    folder: Path,
    model: PreTrainedModel,
    store: ImageStore,
    split: str,
    found: VisionReport,
    entropies: list[Entropy],
) -> None:
    from spikeformers.energy import energy_of
    from spikeformers.reporting.vision_page import write_vision_page

    counted = energy_of(model, store.batches(split, 8, 16))
    facts = {
        "model": str(folder),
        "images": f"{store.data.name}, {split}; {store.data.split_by}",
        "sha256": store.data.digest,
        "energy of the products, nJ an image (estimated)": (
            f"{counted.picojoules_per_token / 1000:,.1f}"
        ),
        "with elementwise work, nJ an image (estimated)": (
            f"{counted.with_elementwise_per_token / 1000:,.1f}"
        ),
    }
    write_vision_page(path, folder, found, entropies, counted.density, facts)
