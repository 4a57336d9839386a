"""``spikeformers finetune-attention``: train the spiking attention of a converted model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spikeformers.cli._options import (
    GGUFFile,
    Json,
    Resume,
    RunData,
    Set,
    TeacherDtype,
    TextField,
)


def finetune_attention(
    model: Annotated[
        str,
        typer.Argument(
            help="Folder of a model written by convert.", metavar="MODEL", show_default=False
        ),
    ],
    data: RunData = "",
    out: Annotated[
        Path | None, typer.Option(help="Run folder.", show_default="MODEL/tuned")
    ] = None,
    train: Annotated[
        str,
        typer.Option(
            help="Part to train: attention (as in the paper), norms (and attention), or everything."
        ),
    ] = "attention",
    teacher: Annotated[
        str,
        typer.Option(help="Dense original to learn from as well: a folder, or a name on the hub."),
    ] = "",
    gguf_file: GGUFFile = "",
    teacher_dtype: TeacherDtype = "auto",
    transfer: Annotated[
        bool,
        typer.Option(
            "--transfer",
            help="Match each block's attention output to the teacher's (stage 1 of 2).",
        ),
    ] = False,
    density: Annotated[
        float | None,
        typer.Option(
            help="Share of the weights that a token reads in the end, in (0, 1), of a model with "
            "thresholds per token: its dead zones grow during the first half of the run.",
            show_default=False,
        ),
    ] = None,
    kd: Annotated[
        float, typer.Option(help="Weight of the teacher's term in the loss, in (0, 1].")
    ] = 0.5,
    tau: Annotated[float, typer.Option(help="Temperature of the teacher's soft targets.")] = 2.0,
    assign: Set = None,
    resume: Resume = False,
    text_field: TextField = "text",
    as_json: Json = False,
) -> None:
    """Train the spiking attention of a converted model with surrogate gradients.

    Examples:
    spikeformers finetune-attention runs/spiking --data my_texts/ --set steps=500

    spikeformers finetune-attention runs/spiking --data my_texts/ --teacher runs/twin --train norms

    spikeformers finetune-attention runs/spiking --data my_texts/ --teacher runs/twin --transfer

    spikeformers finetune-attention runs/smol --train everything --density 0.5 --data my_texts/

    All other weights are frozen. The loss is the language model's. With --teacher it is (1 - kd)
    times that plus kd tau^2 times the KL divergence from the dense original; with --transfer it is
    the squared error of each attention's output, and a second run on MODEL/tuned continues from
    there. --density makes a model that was converted with --threshold token fire less while it
    learns. Ctrl-C leaves a checkpoint; --resume then ends at the same weights, bit for bit.

    JSON: as pretrain; with a teacher and without --transfer, validation also has teacher_agreement
    and teacher_kl.
    """
    from spikeformers.cli._output import on_terminal, print_run

    with on_terminal() as callbacks:
        from spikeformers import runs

        result = runs.finetune_attention(
            model, data=data, out=out, part=train, teacher=teacher, gguf_file=gguf_file,
            teacher_dtype=teacher_dtype, transfer=transfer, density=density, kd=kd, tau=tau,
            text_field=text_field, settings=assign, resume=resume, **callbacks,
        )  # fmt: skip
    print_run(result, as_json=as_json)
