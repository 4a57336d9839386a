"""``spikeformers energy``: events that were counted, joules that are estimated."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spikeformers.cli._options import AnyData, Images, Json, Root, Split, TextField

if TYPE_CHECKING:
    from spikeformers.cli._counting import Material
    from spikeformers.energy.pricing.price_table import PriceTable
    from spikeformers.evaluation.measured import MeasuredReport
    from spikeformers.progress import Move
    from spikeformers.reporting.energy import Energies


def energy(
    models: Annotated[
        list[Path],
        typer.Argument(help="Model folder, or several.", metavar="MODEL...", show_default=False),
    ],
    data: AnyData,
    split: Split = "validation",
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of the text to run over.")] = 4096,
    control: Annotated[
        Path | None,
        typer.Option(help="Dense model to compare with.", show_default="a fresh dense twin"),
    ] = None,
    price: Annotated[
        str,
        typer.Option(
            help="Prices of the full estimate: horowitz45 (45 nm), tpu7 (7 nm), or a YAML file.",
            metavar="TABLE",
        ),
    ] = "horowitz45",
    contexts: Annotated[
        str, typer.Option(help="Context lengths that decode and prefill are estimated at.")
    ] = "128,1024,8192",
    report: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write energy.json, energy.html and pictures into.", show_default=False
        ),
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure/--no-measure",
            help="Also run both and the engine on this machine: time, memory, joules of a meter.",
        ),
    ] = True,
    text_field: TextField = "text",
    images: Images = 64,
    root: Root = "",
    as_json: Json = False,
) -> None:
    """Energy per token (of a vision model: per image), beside that of the dense twin.

    Events are counted in a real run over the text: multiply-accumulates, synaptic operations,
    coincidences in attention, comparisons, neurons, norms. The joules are estimates, in two parts.
    paper is the papers' sum, 4.6 pJ a multiply-accumulate and 0.9 pJ an accumulate at 45 nm. full
    prices every operation by type and width and all that is read and written (weights,
    activations, membranes, keys and values) by --price, for decode and prefill at several context
    lengths, beside fp32, fp16 and int8 twins; with the density at which the spiking model stops
    taking less, and with what the ratio hangs on. measured is no estimate: the model, its twin and
    the engine run on this machine in turns, each in a process of its own. What a dense model costs
    does not depend on its weights, so without --control a fresh twin of the same shape is taken.

    JSON: paper (model, control: label, unit, tokens, picojoules_per_token,
    with_elementwise_per_token, macs_per_token, sop_per_token, winner_comparisons_per_token,
    density, density_by_macs, by_component, by_layer, by_neuron, products, prices, rules; formula),
    full (model, control: by format a list of phases; break_even, sensitivity, formats, prices,
    assumptions), measured (model, control, engine-int8, engine-fp32, setting, meters, absent;
    not with --no-measure), control_weights (fresh, or its folder; control is null for a dense
    model), context, data, split, sha256 of the text. Of several models: models, a list of these,
    each with its folder as model.
    """
    from spikeformers.cli._energy import full_tables, measured_tables, paper_tables
    from spikeformers.cli._output import make_table, print_json, print_table, say, start
    from spikeformers.energy.pricing.price_table import load_table
    from spikeformers.reporting.energy import FORMULA, side_by_side
    from spikeformers.storage import check_folder

    table, lengths = load_table(price), _contexts(contexts)
    start(verbose=False)
    if report is not None:
        check_folder(report, "--report")
    given = {"split": split, "tokens": tokens, "text_field": text_field}
    given |= {"images": images, "root": root}
    found, parts = [], []
    for folder in models:
        one, said = _count(
            folder, data, control, table, lengths, given,
            pictures=report is not None, measure=measure,
        )  # fmt: skip
        found.append(one)
        parts.append(said)
    if report is not None:
        from spikeformers.reporting.energy_page import write_energy_report

        page = write_energy_report(report, found, parts)
        if not as_json:
            say(f"written: {page}, and energy.json beside it")
    if as_json:
        several = {
            "models": [{"model": one.name, **p} for one, p in zip(found, parts, strict=True)]
        }
        print_json(parts[0] if len(parts) == 1 else several)
        return
    for one in found:
        for shown in paper_tables(one):
            print_table(shown)
        print(f"estimated: {FORMULA}; events of {one.paper.tokens:,} {one.unit}s\n")
        for shown in (*full_tables(one), *measured_tables(one)):
            print_table(shown)
    if len(found) > 1:
        print_table(make_table("Side by side, nJ, estimated", *side_by_side(found)))


def _count(
    folder: Path,
    data: str,
    control: Path | None,
    table: PriceTable,
    contexts: list[int],
    given: dict[str, Any],
    *,
    pictures: bool,
    measure: bool,
) -> tuple[Energies, dict[str, Any]]:
    """One model counted and estimated, and its parts as JSON."""
    from spikeformers.cli._counting import read_material
    from spikeformers.progress import Progress
    from spikeformers.reporting.energy import add_spikes, energies

    read = read_material(folder, data, **given)
    twin, weights = _twin(read.model.config, control)
    with Progress() as progress:
        found = energies(
            str(folder), read.model, twin, read.batches, table, contexts=contexts,
            control_weights=weights, progress=partial(progress, unit="batches"),
        )  # fmt: skip
        found.facts = read.facts
        if pictures and read.tokenizer is not None:
            progress.stage("drawing spikes")
            add_spikes(found, read.model, read.batches, read.tokenizer)
        parts = found.parts()
        if measure:
            move = progress.stage("measuring on this machine", "turns")
            found.measured = _measured(folder, read, twin, move)
    if found.measured is not None:
        parts["measured"] = {"control": None, **found.measured.as_dict()}
    return found, {**parts, "control_weights": weights, **read.facts}


def _measured(folder: Path, read: Material, twin: Any, progress: Move) -> MeasuredReport:
    """Part three: the model, its twin and the engine, run on this machine."""
    from spikeformers.cli._measured import measure_folder
    from spikeformers.errors import SpikeformersError

    try:
        return measure_folder(folder, read.model, twin, read.batches, progress=progress)
    except SpikeformersError as error:
        raise type(error)(f"{error} --no-measure leaves this part out.") from error


def _contexts(said: str) -> list[int]:
    from spikeformers.errors import UsageError

    try:
        found = [int(part) for part in said.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1 or len(set(found)) < len(found):
        raise UsageError(
            f"--contexts is a list of different lengths in tokens, such as 128,1024, not {said!r}."
        )
    return sorted(found)


def _twin(config: Any, control: Path | None) -> tuple[Any, str | None]:
    """The dense model to compare with, and whose weights it has."""
    import torch

    from spikeformers.models import build_model, control_of
    from spikeformers.models.control import has_control
    from spikeformers.models.loading import load_weights

    if control is not None:
        dense = load_weights(control)
        _check_control(config, dense, control)
        return dense, str(control)
    torch.manual_seed(0)
    if not has_control(config):
        return None, None
    return build_model(control_of(config)).eval(), "fresh"


def _check_control(config: Any, dense: Any, folder: Path) -> None:
    """UsageError for a control that cannot read what the model reads, or that spikes."""
    from spikeformers.energy import neuron_names
    from spikeformers.errors import UsageError
    from spikeformers.models.registry import is_vision

    reads = ["images" if is_vision(one) else "text" for one in (config, dense.config)]
    if reads[0] != reads[1]:
        raise UsageError(
            f"--control {folder} reads {reads[1]}, and the model reads {reads[0]}. Name a dense "
            "model of the same kind, or leave --control out for a fresh twin."
        )
    if neuron_names(dense):
        raise UsageError(
            f"--control {folder} spikes ({type(dense).__name__}); what is compared with is dense. "
            "Give both as MODEL to see them side by side."
        )
    for what, key in (
        ("words", "vocab_size"), ("positions", "max_position_embeddings"),
        ("pixels a side", "image_size"),
    ):  # fmt: skip
        mine, its = (getattr(one, key, None) for one in (config, dense.config))
        if mine is not None and its is not None and its < mine:
            raise UsageError(
                f"--control {folder} knows {its:,} {what}, fewer than the {mine:,} of the model, "
                "so the two are no twins. Leave --control out for a fresh one."
            )
