"""``spikeformers energy``: events that were counted, joules that are estimated."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spikeformers.cli._options import AnyData, Images, Json, Model, Root, Split, TextField

if TYPE_CHECKING:
    from spikeformers.energy import EnergyReport


def energy(
    model: Model,
    data: AnyData,
    split: Split = "validation",
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of the text to run over.")] = 4096,
    control: Annotated[
        Path | None,
        typer.Option(help="Dense model to compare with.", show_default="a fresh dense twin"),
    ] = None,
    text_field: TextField = "text",
    images: Images = 64,
    root: Root = "",
    as_json: Json = False,
) -> None:
    """Estimated energy per token (of a vision model: per image), beside that of its dense twin.

    Events are counted in a real run over the text: multiply-accumulates, synaptic operations,
    coincidences in attention, comparisons, neurons, norms. The joules are estimates by the
    papers' 45 nm prices (4.6 pJ a multiply-accumulate, 0.9 pJ an accumulate), never metered. What
    a dense model costs does not depend on its weights, so without --control a freshly initialised
    twin of the same shape is counted.

    JSON: model and control, each with label, unit (token, image), tokens, picojoules_per_token,
    with_elementwise_per_token, macs_per_token, sop_per_token, winner_comparisons_per_token,
    density, density_by_macs, by_component, by_layer, by_neuron, products, prices, rules;
    control_weights (fresh, or its folder; control is null for a dense model), context, data,
    split, sha256 of the text.
    """
    from spikeformers.cli._counting import read_material
    from spikeformers.cli._output import print_json, print_table, start
    from spikeformers.energy import energy_of

    start(verbose=False)
    read = read_material(
        model, data, split, tokens=tokens, text_field=text_field, images=images, root=root
    )
    loaded, windows = read.model, read.batches
    found = energy_of(loaded, windows)
    twin, weights = _twin(loaded.config, control)
    beside = None if twin is None else energy_of(twin, windows)
    if as_json:
        print_json(
            {
                "model": found.as_dict(),
                "control": None if beside is None else beside.as_dict(),
                "control_weights": weights,
                **read.facts,
            }
        )
        return
    for table in _tables(str(model), found, beside, weights):
        print_table(table)
    print(f"estimated: events of {found.tokens:,} {read.unit}s times {found.prices.name} prices")


def _twin(config: Any, control: Path | None) -> tuple[Any, str | None]:
    """The dense model to compare with, and whose weights it has."""
    import torch

    from spikeformers.models import SpikingConfig, SpikingViTConfig, build_model, control_of
    from spikeformers.models.loading import load_weights

    if control is not None:
        return load_weights(control), str(control)
    if not isinstance(config, (SpikingConfig, SpikingViTConfig)):
        return None, None
    torch.manual_seed(0)
    return build_model(control_of(config)).eval(), "fresh"


def _tables(
    name: str, found: EnergyReport, beside: EnergyReport | None, weights: str | None
) -> list[Any]:
    from spikeformers.cli._output import make_table

    sides = [found] if beside is None else [found, beside]
    each = f"{'an' if found.unit == 'image' else 'a'} {found.unit}"
    columns = (f"nJ {each}, estimated", name, f"dense twin ({weights})")[: 1 + len(sides)]

    def row(title: str, values: list[float], form: str = "{:,.2f}") -> tuple[str, ...]:
        return (title, *(form.format(value) for value in values))

    parts = [
        row(part, [side.by_component[part].with_elementwise / 1000 for side in sides])
        for part in found.by_component
        if any(side.by_component[part].with_elementwise for side in sides)
    ]
    parts += [
        row("sum", [side.with_elementwise_per_token / 1000 for side in sides]),
        row("matrix products alone", [side.picojoules_per_token / 1000 for side in sides]),
    ]
    counted = [
        row("dense MACs of the products", [side.macs_per_token for side in sides], "{:,.0f}"),
        row("synaptic operations", [side.sop_per_token for side in sides], "{:,.0f}"),
        row(
            "comparisons for winners",
            [side.winner_comparisons_per_token for side in sides],
            "{:,.0f}",
        ),
        ("firing density", *("-" if s.density is None else f"{s.density:.3f}" for s in sides)),
    ]
    tables = [
        make_table("Energy by component", columns, parts),
        make_table(f"Counted, per {found.unit} (measured)", ("", *columns[1:]), counted),
    ]
    if found.neurons:
        layers = [
            (layer, f"{share.with_elementwise / 1000:,.2f}", f"{share.sop:,.0f}")
            for layer, share in found.by_layer.items()
        ]
        heads = ("block", f"nJ {each}, estimated", "synaptic operations")
        tables.append(make_table(f"Energy by block of {name}", heads, layers))
    return tables
