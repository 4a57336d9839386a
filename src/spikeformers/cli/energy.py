"""``spikeformers energy``: counted events and the energy estimated from them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spikeformers.cli._options import AnyData, Images, Json, Root, Split, TextField

SWINGS = 8  # rows of the sensitivity table


def energy(
    models: Annotated[
        list[Path],
        typer.Argument(
            help="One or more model folders, or books.", metavar="MODEL...", show_default=False
        ),
    ],
    data: AnyData,
    split: Split = "validation",
    tokens: Annotated[int, typer.Option(min=1, help="Number of tokens to run on.")] = 4096,
    control: Annotated[
        Path | None,
        typer.Option(help="Dense model to compare with.", show_default="a new dense twin"),
    ] = None,
    price: Annotated[
        str,
        typer.Option(
            help="Energy prices for the full estimate: horowitz45 (45 nm), tpu7 (7 nm), or a YAML "
            "file.",
            metavar="TABLE",
        ),
    ] = "horowitz45",
    contexts: Annotated[
        str,
        typer.Option(help="Context lengths at which to estimate decode and prefill, in tokens."),
    ] = "128,1024,8192",
    report: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write energy.json, energy.html and pictures to.", show_default=False
        ),
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure/--no-measure",
            help="Also run model, twin and engine on this machine, and measure time, memory and "
            "(if there is a meter) energy.",
        ),
    ] = True,
    text_field: TextField = "text",
    images: Images = 64,
    root: Root = "",
    as_json: Json = False,
) -> None:
    """Estimate a model's energy per token (vision: per image), compared with its dense twin's.

    Events are counted in a real run on --data: multiply-accumulates, synaptic operations,
    coincidences in attention, comparisons, neuron updates, norms. The energies are estimates, in
    two parts. paper is the sum used in the papers: 4.6 pJ per multiply-accumulate and 0.9 pJ per
    accumulate, at 45 nm. full prices every operation by type and width, and all memory traffic
    (weights, activations, membranes, keys and values), from the table --price, for decode and
    prefill at several context lengths, next to fp32, fp16 and int8 twins. It includes the
    break-even density, above which the spiking model takes more energy than its twin, and what the
    ratio of the two depends on. measured is not an estimate: model, twin and engine take turns on
    this machine, each in its own process. A dense model's cost does not depend on its weights, so
    without --control a new twin of the same shape is used.

    JSON: paper (model, control: label, unit, tokens, picojoules_per_token,
    with_elementwise_per_token, macs_per_token, sop_per_token, winner_comparisons_per_token,
    density, density_by_macs, by_component, by_layer, by_neuron, products, prices, rules; formula),
    full (model, control: by format a list of phases; break_even, sensitivity, formats, prices,
    assumptions), measured (model, control, engine-int8, engine-fp32, setting, meters, absent;
    not with --no-measure), control_weights (fresh, or its folder; control is null for a dense
    model), context, data, split, sha256 of the text. For several models: models, a list of these,
    each with its folder as model.
    """
    from spikeformers.cli._output import print_json, print_tables, say, start
    from spikeformers.energy import load_table
    from spikeformers.export import pack
    from spikeformers.progress import Progress
    from spikeformers.reporting import energy_page, energy_tables, measured_tables
    from spikeformers.storage import check_folder
    from spikeformers.studies import UNITS, measure_energy
    from spikeformers.studies.energy import FORMULA

    table, lengths = load_table(price), _contexts(contexts)
    start(verbose=False)
    if report is not None:
        check_folder(report, "--report")
    studies = []
    with Progress(units=UNITS) as progress:
        for model in models:
            study = measure_energy(
                model, data, split=split, tokens=tokens, control=control, prices=table,
                contexts=lengths, text_field=text_field, images=images, root=root,
                spikes=report is not None, measure=measure, pack=pack, progress=progress,
            )  # fmt: skip
            studies.append(study)
    if report is not None:
        page = energy_page.write_energy_report(report, studies)
        if not as_json:
            say(f"written: {page}, and energy.json beside it")
    if as_json:
        print_json(energy_page.as_json(studies))
        return
    for study in studies:
        print_tables(energy_tables.paper_tables(study))
        print(f"estimated: {FORMULA}; events of {study.paper.tokens:,} {study.unit}s\n")
        print_tables(energy_tables.full_tables(study))
        print_tables(energy_tables.twin_tables(study, SWINGS))
        if study.measured is not None:
            print_tables(measured_tables.tables_with_notes(study.measured))
    if len(studies) > 1:
        print_tables([energy_tables.side_by_side(studies)])


def _contexts(listed: str) -> list[int]:
    from spikeformers.errors import UsageError

    try:
        lengths = [int(part) for part in listed.split(",")]
    except ValueError:
        lengths = []
    if not lengths or min(lengths) < 1 or len(set(lengths)) < len(lengths):
        raise UsageError(
            "--contexts is a list of different lengths in tokens, such as 128,1024, not "
            f"{listed!r}."
        )
    return sorted(lengths)
