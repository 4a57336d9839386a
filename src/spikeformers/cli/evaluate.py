"""``spikeformers evaluate``: how well a model predicts a text, agrees with another, or sees."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spikeformers.cli._options import Data, Json, Model, Root, Split, TextField
from spikeformers.errors import ConfigError

Tokens = Annotated[
    int | None,
    typer.Option("--tokens", min=1, help="Tokens of the text.", show_default="all of it"),
]


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
    from spikeformers.cli._output import print_json, print_tables, start
    from spikeformers.progress import Progress
    from spikeformers.reporting.evaluation_tables import perplexity_table
    from spikeformers.studies import UNITS, evaluate_perplexity

    start(verbose=False)
    with Progress(units=UNITS) as progress:
        study = evaluate_perplexity(
            model, data, split=split, context=context, stride=stride, tokens=tokens,
            batch_size=batch_size, text_field=text_field, progress=progress,
        )  # fmt: skip
    if as_json:
        print_json(study.as_dict())
        return
    print_tables([perplexity_table(study)])


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
    the reference in nats per token, and mean cosines: of the logits, less their mean and as they
    are, and of the last hidden states where their widths are the same.

    JSON: tokens, context, agreement, kl, cosine, logit_cosine, hidden_cosine; model, reference,
    data, split, sha256 of the text.
    """
    from spikeformers.cli._output import print_json, print_tables, start
    from spikeformers.progress import Progress
    from spikeformers.reporting.evaluation_tables import agreement_table
    from spikeformers.studies import UNITS, evaluate_agreement

    start(verbose=False)
    with Progress(units=UNITS) as progress:
        study = evaluate_agreement(
            model, reference, data, gguf_file=gguf_file, split=split, context=context,
            tokens=tokens, batch_size=batch_size, text_field=text_field, progress=progress,
        )  # fmt: skip
    if as_json:
        print_json(study.as_dict())
        return
    print_tables([agreement_table(study)])


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

    JSON: images, accuracy (a share), loss (nats per image), per_class, confusion (true class, found
    class), entropy (layer, role, kind, bits, ceiling), skipped (name, why), model, data, split,
    sha256 of the data.
    """
    from spikeformers.cli._output import print_json, print_tables, start
    from spikeformers.progress import Progress
    from spikeformers.reporting.evaluation_tables import image_tables
    from spikeformers.storage import check_file
    from spikeformers.studies import UNITS, evaluate_images

    start(verbose=False)
    if report is not None:
        if report.suffix.lower() not in (".html", ".htm"):
            raise ConfigError(f"--report {report} must be the name of an HTML file.")
        check_file(report, "--report")
    with Progress(units=UNITS) as progress:
        study = evaluate_images(
            model, data, split=split, root=root, batch_size=batch_size, images=images, fit=fit,
            broken=broken, energy=report is not None, progress=progress,
        )  # fmt: skip
    if report is not None:
        from spikeformers.reporting import write_image_page

        write_image_page(report, study)
    if as_json:
        print_json(study.as_dict())
        return
    print_tables(image_tables(study))
