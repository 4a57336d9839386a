"""``spikeformers audit``: which arithmetic a model really does."""

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
            help="Requirement to check: binary, addition-only or softmax-free; repeatable. Exit "
            "code 1 if the model does not meet it.",
            metavar="REQUIREMENT",
            show_default=False,
        ),
    ] = None,
    scope: Annotated[
        str, typer.Option(help="What --require checks: blocks, or model (all of it).")
    ] = "blocks",
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Check norms, exponentials, divisions and scale factors too, not only products.",
        ),
    ] = False,
    split: Split = "validation",
    tokens: Annotated[int, typer.Option(min=1, help="Number of tokens to run on.")] = 2048,
    text_field: TextField = "text",
    images: Images = 8,
    root: Root = "",
    unfold: Annotated[
        bool, typer.Option("--all", help="List every operation of every layer on its own line.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check which arithmetic a model does: every matrix product, softmax, exponential and norm.

    A real forward pass is traced at torch's dispatcher, so functional calls and fused kernels are
    included. Each operation gets a verdict: binary (an operand of zeros and ones), adder (ternary
    or integer counts, powers of two, comparisons), scale (a factor fixed before the run),
    multiplier, silent (only zeros, which prove nothing), unknown (an operation that the audit
    cannot classify).

    --require binary: every product is binary. addition-only: every product is binary or adder.
    softmax-free: no softmax and no exponential of data. An unknown operation fails all three. With
    --strict, binary and addition-only also require every elementwise operation to be adder. Only
    the blocks are checked, unless --scope model is given; operations outside the blocks are always
    listed. The result is evidence from one run, not a proof.

    JSON: model, tokens, rows (name, module, layer, what, op, operands, verdict, note),
    falls_short (by scope and requirement); required (scope, strict, and by requirement the names
    of the rows that do not meet it), context (of text), data, split, sha256 of the data.
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
