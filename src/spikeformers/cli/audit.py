"""``spikeformers audit``: what arithmetic a model really does."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from spikeformers.cli._options import AnyData, Images, Json, Model, Root, Split, TextField


def audit(
    model: Model,
    data: AnyData,
    require: Annotated[
        list[str] | None,
        typer.Option(
            help="binary, addition-only or softmax-free; may be given again. Exit code 1 where "
            "the model falls short.",
            metavar="WHAT",
            show_default=False,
        ),
    ] = None,
    scope: Annotated[
        str, typer.Option(help="What --require judges: blocks, or the whole model.")
    ] = "blocks",
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Judge norms, exponentials, divisions and factors too, not only products.",
        ),
    ] = False,
    split: Split = "validation",
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of the text to run over.")] = 2048,
    text_field: TextField = "text",
    images: Images = 8,
    root: Root = "",
    unfold: Annotated[
        bool, typer.Option("--all", help="Every operation of every layer, on a line of its own.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Operands of every matrix product, and every softmax, exponential, division and norm.

    A real forward pass is traced at torch's dispatcher, so functional calls and fused kernels are
    seen. Verdicts: binary (an operand of zeros and ones), adder (ternary or integer counts, powers
    of two, comparisons), scale (a factor fixed before the run), multiplier, silent (all zeros
    proves nothing), unknown (an operation that the audit has no class for).

    --require binary: every product is binary. addition-only: every product is binary or adder.
    softmax-free: no softmax, no exponential of data. An unknown operation meets none of them. With
    --strict the first two also want every elementwise operation to be adder. The blocks are
    judged, or with --scope model everything; what is outside the blocks is listed always. It is
    evidence from one run, not a proof.

    JSON: model, tokens, rows (name, module, layer, what, op, operands, verdict, note),
    falls_short (by scope and requirement); required (scope, strict, and by requirement the names
    of the rows that fall short), context (of text), data, split, sha256 of the data.
    """
    from spikeformers.cli._output import print_json, print_tables, start
    from spikeformers.errors import RequirementNotMet
    from spikeformers.progress import Progress
    from spikeformers.reporting.audit_tables import audit_tables, what_falls_short
    from spikeformers.studies import UNITS, audit_folder

    start(verbose=False)
    judged: dict[str, Any] = {"require": require or [], "scope": scope, "strict": strict}
    with Progress(units=UNITS) as progress:
        study = audit_folder(
            model, data, **judged, split=split, tokens=tokens, text_field=text_field,
            images=images, root=root, progress=progress,
        )  # fmt: skip
    if as_json:
        print_json(study.as_dict())
    else:
        print_tables(audit_tables(study.report, unfold))
        seen = f"{study.report.tokens:,} {study.unit}s of {study.name}, {split}"
        other = "images" if study.unit == "image" else "text"
        print(f"traced on {seen}: evidence from this run, not a proof for other {other}")
    if not study.met:
        raise RequirementNotMet(f"{model} {what_falls_short(study)}")
