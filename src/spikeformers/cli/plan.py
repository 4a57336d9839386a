"""``spikeformers plan``: memory, speed and days of a training, estimated."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from spikeformers.cli._options import Json, Set


def plan(
    preset: Annotated[str, typer.Option("--preset", help="Preset, such as wd-spikingformer-0.4b.")],
    gpus: Annotated[int, typer.Option(min=1, help="Number of GPUs.")] = 1,
    gpu: Annotated[
        str, typer.Option(help="Kind of GPU: a100, a100-40gb, h100, h100-pcie, h200, l4, l40s ...")
    ] = "h100",
    control: Annotated[
        bool, typer.Option("--control", help="Plan the preset's dense twin.")
    ] = False,
    windows: Annotated[int, typer.Option(min=1, help="Windows per GPU in one forward pass.")] = 4,
    context: Annotated[
        int | None, typer.Option(min=2, help="Tokens in a window.", show_default="as the preset")
    ] = None,
    vocabulary: Annotated[
        int | None,
        typer.Option(min=1, help="Size of the vocabulary.", show_default="GPT-2's"),
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(help="ddp or fsdp.", show_default="fsdp on several GPUs"),
    ] = None,
    optimizer: Annotated[str, typer.Option(help="adamw or muon.")] = "adamw",
    precision: Annotated[str, typer.Option(help="bf16 or fp32.")] = "bf16",
    mfu: Annotated[
        float | None,
        typer.Option(help="Assumed share of the GPU's peak (MFU).", show_default="0.3"),
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens to train on.", show_default="the paper's")
    ] = None,
    assign: Set = None,
    as_json: Json = False,
) -> None:
    """Estimate what training a preset takes: memory by part, tokens per second, days.

    Examples:
    spikeformers plan --preset wd-spikingformer-0.4b --gpus 8 --gpu h100

    spikeformers plan --preset wd-spikingformer-0.4b --control --gpus 8 --gpu h100 --windows 16

    Nothing is trained; every number is estimated. Activations are counted from the model itself
    with PyTorch's own kernels, for which attention writes its scores out whole. Speed follows from
    the GPU's peak in dense bf16 and the assumed --mfu. --set takes fields of the model's config.

    JSON: estimated, preset, model_type, parameters, gpus, gpu, strategy, optimizer, precision,
    context, windows, vocabulary; bytes of one GPU: weights, gradients, optimiser, gathered,
    activations, activations_scores, working, total, usable, cache; most_windows, flops_per_token,
    mfu, tokens_per_second, tokens, days; activations, working, total, most_windows,
    tokens_per_second and days also with _checkpointed.
    """
    from spikeformers.cli._output import print_json, print_tables, start

    start(verbose=False)
    from spikeformers import studies
    from spikeformers.models import PRESETS
    from spikeformers.reporting.plan_tables import plan_tables
    from spikeformers.runs.recipe import parse_assignments

    optional: dict[str, Any] = {
        "context": context, "vocabulary": vocabulary, "mfu": mfu, "tokens": tokens,
        "strategy": strategy,
    }  # fmt: skip
    planned = studies.plan(
        preset, gpus=gpus, gpu=gpu, control=control, windows=windows, optimizer=optimizer,
        precision=precision,  # type: ignore[arg-type]
        settings=parse_assignments(assign or []),
        **{key: value for key, value in optional.items() if value is not None},
    )  # fmt: skip
    if as_json:
        print_json(planned.as_dict())
        return
    print_tables(plan_tables(planned, paper="" if tokens else PRESETS.entry(preset).paper))
