"""``spikeformers evaluate``: perplexity, agreement with another model, accuracy on images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spikeformers.cli._options import Data, Json, Model, Root, Split, TextField
from spikeformers.errors import ConfigError

Tokens = Annotated[
    int | None,
    typer.Option("--tokens", min=1, help="Number of tokens to run on.", show_default="all"),
]


def perplexity(
    model: Model,
    data: Data,
    split: Split = "validation",
    context: Annotated[
        int | None,
        typer.Option(min=2, help="Length of a window in tokens.", show_default="as trained"),
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens to advance per window.", show_default="half a window"),
    ] = None,
    tokens: Tokens = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Windows per batch.")] = 8,
    text_field: TextField = "text",
    as_json: Json = False,
) -> None:
    """Measure perplexity per token and per word, and bits per byte, with a sliding window.

    Every token is scored once, after at least context - stride earlier tokens (fewer only at the
    beginning). Bits per byte can be compared across tokenizers, perplexity per token cannot. A
    masked model gets loss, accuracy and perplexity of masked tokens instead. The table leaves out a
    perplexity per word of 100,000 or more, which carries no information: the model hardly knows
    the tokens that spell the words.

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
            help="Model to compare with: a folder, or a name on the hub.", show_default=False
        ),
    ],
    gguf_file: Annotated[
        str, typer.Option(help="Name of a GGUF file in the reference's folder or repository.")
    ] = "",
    split: Split = "validation",
    context: Annotated[
        int | None,
        typer.Option(min=2, help="Length of a window in tokens.", show_default="as trained"),
    ] = None,
    tokens: Tokens = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Windows per batch.")] = 8,
    text_field: TextField = "text",
    as_json: Json = False,
) -> None:
    """Measure how far a causal model agrees with another of the same tokenizer, e.g. its teacher.

    Reported are the share of positions where both predict the same most likely next token, the KL
    divergence from the reference in nats per token, and mean cosine similarities: of the logits,
    with and without their mean subtracted, and of the last hidden states if their widths match.

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
            help="Images: digits, cifar10, cifar100, fashion-mnist, imagenet-folder, or a folder.",
            show_default=False,
        ),
    ],
    split: Annotated[
        str, typer.Option(help="Part of the images: train, validation or test.")
    ] = "test",
    root: Root = "",
    batch_size: Annotated[int, typer.Option(min=1, help="Images per batch.")] = 64,
    images: Annotated[
        int,
        typer.Option(
            min=0, help="Number of images, spread evenly over the set; 0: all.", show_default="all"
        ),
    ] = 0,
    fit: Annotated[
        bool, typer.Option("--fit", help="Convert, resize and crop images of another size or mode.")
    ] = False,
    broken: Annotated[
        str,
        typer.Option(help="Images that cannot be read: refuse (stop), or skip (and list them)."),
    ] = "refuse",
    report: Annotated[
        Path | None,
        typer.Option(help="HTML page to write, with pictures beside it.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure an image classifier's accuracy, overall and per class, and which classes it confuses.

    The entropy of Q, K and V is measured on up to 256 of the images, and compared with the most
    that binary, ternary and real values can carry.

    JSON: images, accuracy (a share), loss (nats per image), per_class, confusion (true class,
    predicted class), entropy (layer, role, kind, bits, ceiling), skipped (name, why), model, data,
    split, sha256 of the data.
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
