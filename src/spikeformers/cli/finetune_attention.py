"""``spikeformers finetune-attention``: train the spiking attention of a converted model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spikeformers.cli._options import Json, TextField


def finetune_attention(
    model: Annotated[
        str,
        typer.Argument(help="Folder of a converted model.", metavar="MODEL", show_default=False),
    ],
    data: Annotated[
        str,
        typer.Option(
            help="builtin, a text, JSONL or Parquet file, a folder, or a data set of the hub.",
            metavar="SOURCE",
        ),
    ] = "",
    out: Annotated[
        Path | None, typer.Option(help="Run folder.", show_default="MODEL/tuned")
    ] = None,
    train: Annotated[
        str, typer.Option(help="attention (the paper's), norms (and these), or everything.")
    ] = "attention",
    teacher: Annotated[
        str,
        typer.Option(help="Learn from the dense original too: a folder or a hub name."),
    ] = "",
    gguf_file: Annotated[
        str, typer.Option(help="GGUF file in the teacher's folder or repository.")
    ] = "",
    teacher_dtype: Annotated[
        str, typer.Option(help="Of the teacher's weights: auto (their own), fp32, bf16 or fp16.")
    ] = "auto",
    transfer: Annotated[
        bool,
        typer.Option(
            "--transfer",
            help="Teach each attention what the teacher's says, block by block; first of two runs.",
        ),
    ] = False,
    kd: Annotated[float, typer.Option(help="Weight of the teacher, in (0, 1].")] = 0.5,
    tau: Annotated[float, typer.Option(help="Temperature of the teacher.")] = 2.0,
    assign: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="key=value, often: a field of TrainConfig.", metavar="KEY=VALUE"
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out, exactly.")
    ] = False,
    text_field: TextField = "text",
    as_json: Json = False,
) -> None:
    """Train the spiking attention of a converted model with surrogate gradients.

    Examples:
    spikeformers finetune-attention runs/spiking --data my_texts/ --set steps=500

    spikeformers finetune-attention runs/spiking --data my_texts/ --teacher runs/twin --train norms

    spikeformers finetune-attention runs/spiking --data my_texts/ --teacher runs/twin --transfer

    Everything else is frozen. The loss is the language model's, or with --teacher
    (1 - kd) times it plus kd tau^2 KL from the dense original, or with --transfer the squared error
    of each attention's output; go on from there with a second run on MODEL/tuned. Ctrl-C leaves a
    checkpoint; --resume goes on to the same weights bit for bit.

    JSON: as pretrain; with a teacher and without --transfer, validation has teacher_agreement and
    teacher_kl as well.
    """
    from spikeformers.cli._finetune import Tuning, prepare, reopen
    from spikeformers.cli._output import is_main_process, start
    from spikeformers.cli._recipe import parse_assignments
    from spikeformers.cli._run import carry_out, check_out

    start(verbose=is_main_process())
    folder = out or Path(model) / "tuned"
    changes = parse_assignments(assign or [])
    check_out(folder, resume=resume)
    if resume:
        run, task = reopen(folder, changes)
    else:
        asked = Tuning(
            model, folder, data, text_field, train, teacher, gguf_file, kd, tau, changes,
            teacher_dtype, transfer,
        )  # fmt: skip
        run, task = prepare(asked)
    card = {"converted model": model, "trained": run.request["part"]}
    carry_out(run, folder, resume=resume, as_json=as_json, task=task, card=card)
