"""``spikeformers audit``: what arithmetic a model really does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spikeformers.cli._options import AnyData, Images, Json, Model, Root, Split, TextField

if TYPE_CHECKING:
    from spikeformers.energy import AuditReport, OperandHistory, Row

_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")


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
    from spikeformers.cli._counting import read_material
    from spikeformers.cli._output import print_json, print_table, start
    from spikeformers.energy import audit as trace_and_list
    from spikeformers.energy import check_request
    from spikeformers.errors import RequirementNotMet
    from spikeformers.progress import Progress, watched

    wanted: list[Any] = list(dict.fromkeys(require or []))
    check_request(wanted, scope, strict)
    where: Any = scope
    start(verbose=False)
    # One sequence or image a pass, so that a unit that depends on it is seen to change.
    read = read_material(
        model, data, split,
        tokens=tokens, text_field=text_field, images=images, root=root, one_by_one=True,
    )  # fmt: skip
    with Progress() as progress:
        move = progress.stage("tracing", "images" if read.unit == "image" else "sequences")
        report = trace_and_list(read.model, watched(read.batches, move))
    if not as_json:
        for table in _tables(report, unfold):
            print_table(table)
        seen = f"{report.tokens:,} {read.unit}s of {read.name}, {split}"
        other = "images" if read.unit == "image" else "text"
        print(f"traced on {seen}: evidence from this run, not a proof for other {other}")
    short = {
        one: report.failures(one, scope=where, strict=strict and one != "softmax-free")
        for one in wanted
    }
    if as_json:
        names = {one: [row.name for row in rows] for one, rows in short.items()}
        print_json(
            report.as_dict()
            | {
                "required": {"scope": scope, "strict": strict, **names},
                **read.facts,
            }
        )
    if any(short.values()):
        place = "blocks" if scope == "blocks" else "whole model"
        level = {one: f"strict {one}" if strict and one != "softmax-free" else one for one in short}
        said = (f"{level[one]}: {_in_words(rows)}" for one, rows in short.items() if rows)
        raise RequirementNotMet(f"{model} falls short, in its {place}, of " + "; of ".join(said))


def _tables(report: AuditReport, unfold: bool) -> list[Any]:
    from spikeformers.cli._output import make_table
    from spikeformers.energy import REQUIREMENTS, SCOPES

    tables = []
    for title, inside in (("In the blocks", True), ("Outside the blocks", False)):
        rows = [row for row in report.rows if (row.layer is not None) == inside]
        shown = rows if unfold else [row for row in rows if not _is_free(row)]
        if shown:
            tables.append(make_table(*_shortened(title, _lines(shown, unfold), unfold)))
        if len(shown) < len(rows):
            tables[
                -1
            ].caption = (
                f"and {len(rows) - len(shown)} multiplications by spikes or powers of two (--all)"
            )
    met = [(one, *(_how_many(report, one, scope) for scope in SCOPES)) for one in REQUIREMENTS]
    return [*tables, make_table("Requirements", ("", *SCOPES), met)]


def _shortened(
    title: str, lines: list[tuple[str, ...]], unfold: bool
) -> tuple[str, tuple[str, ...], list[tuple[str, ...]]]:
    """Title, heads and lines that fit a terminal: what all names begin with moves to the title.

    The operation of the dispatcher shows in the unfolded list alone.
    """
    heads = ("where", "what", "operation", "operands", "verdict", "times")
    if unfold:
        return title, heads, lines
    block, star, _ = lines[0][0].partition("*.")
    if star and all(line[0].startswith(block + star) for line in lines):
        title += f": {block}*"
        lines = [(line[0].removeprefix(block + star), *line[1:]) for line in lines]
    return title, heads[:2] + heads[3:], [line[:2] + line[3:] for line in lines]


def _is_free(row: Row) -> bool:
    return row.what == "multiplication" and row.verdict == "adder"


def _how_many(report: AuditReport, requirement: Any, scope: Any) -> str:
    if not report.products(scope):
        return "no product there"
    rows = report.failures(requirement, scope=scope)
    return f"{len(rows)} fall short" if rows else "met"


def _lines(rows: Sequence[Row], unfold: bool) -> list[tuple[str, ...]]:
    """A line for what is the same in every layer, in the order of the forward pass."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        name = row.name if unfold else _NUMBER.sub("*", row.name)
        sign = " / " if row.what == "division" else " x "
        operands = sign.join(_operand(side, row.what) for side in row.operands)
        key = (name or "(the model)", row.what, row.op.removeprefix("aten."), operands, row.verdict)
        groups.setdefault((*key, str(len(groups))) if unfold else key, []).append(row)
    return [
        (*key[:3], _with_density(key[3], group), key[4], str(len(group)))
        for key, group in groups.items()
    ]


def _operand(side: OperandHistory, what: str) -> str:
    """Kind and where it is known from; ``{}`` stands for the density of spikes."""
    if side.constant:
        if side.shift and not side.is_spikes:
            return "powers of two"
        name = "weights" if what == "product" else "constants"
        return name if side.kind == "real" else f"{side.kind} {name}"
    known = " by value" if side.source == "values" else ""
    known += "" if side.units is None else ", unit per channel"
    return f"{side.kind} {{}}{known}" if side.is_spikes else side.kind


def _with_density(form: str, rows: Sequence[Row]) -> str:
    """Fill in densities, as a range where the layers differ."""
    sides = zip(*(row.operands for row in rows), strict=True)
    ranges = []
    for group in sides:
        if group[0].is_spikes and not group[0].constant:
            low, high = (f"{pick(side.density for side in group):.2f}" for pick in (min, max))
            ranges.append(low if low == high else f"{low}-{high}")
    return form.format(*ranges)


def _in_words(rows: Sequence[Row], limit: int = 6) -> str:
    lines = _lines(rows, unfold=False)
    said = [f"{name} ({what}, {operands}) x{n}" for name, what, _, operands, _, n in lines]
    more = len(said) - limit
    return ", ".join(said[:limit]) + (f", and {more} more kinds" if more > 0 else "")
