"""``spikeformers distill``: train a spiking student from a trained teacher (SpAD)."""

from __future__ import annotations

from typing import Annotated

import typer

from spikeformers.cli._options import (
    Control,
    GGUFFile,
    Json,
    Out,
    RecipeFile,
    Resume,
    RunData,
    Set,
    TeacherDtype,
)


def distill(
    out: Out,
    teacher: Annotated[
        str,
        typer.Option(help="Causal model: a folder (ours or Transformers'), or a name on the hub."),
    ] = "",
    gguf_file: GGUFFile = "",
    teacher_dtype: TeacherDtype = "",
    cache_teacher: Annotated[
        str,
        typer.Option(
            help="Store the teacher's outputs for reuse, in this folder or one chosen by auto.",
            metavar="DIR|auto",
        ),
    ] = "",
    student: Annotated[
        str, typer.Option(help="Preset of the student, such as wd-spikingformer-tiny.")
    ] = "",
    data: RunData = "",
    without: Annotated[
        list[str] | None,
        typer.Option(
            help="Leave out a loss term: ea, saa, sfa, sta or hta; repeatable.", metavar="TERM"
        ),
    ] = None,
    assign: Set = None,
    recipe: RecipeFile = None,
    control: Control = False,
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Train a spiking student from a causal teacher, by spike-aware alignment distillation (SpAD).

    Examples:
    spikeformers distill --teacher runs/twin --student wd-spikingformer-tiny --data my_texts/
    --out runs/student

    spikeformers distill ... --without saa --set sta=0.5 --set tau=4

    spikeformers distill --out runs/student --resume

    The loss is 0.2 ea (embeddings) + 0.1 saa (attention maps) + 0.1 sfa (features) + 0.3 sta (soft
    targets) + 0.3 hta (next token), plus the student's firing-rate term. Keys of --set: fields of
    SpADConfig (a term's weight, tau, layer_map, rate_steps ...) and those of pretrain. The student
    uses the teacher's tokenizer. As a control, --without ea --without saa --without sfa --without
    sta trains by cross-entropy alone, on the same tokens in the same order. Ctrl-C, --resume and
    torchrun work as in pretrain.

    JSON: as pretrain; validation also has teacher_agreement and teacher_kl.
    """
    from spikeformers.cli._output import on_terminal, print_run

    with on_terminal() as callbacks:
        from spikeformers import runs

        result = runs.distill(
            student, teacher, out=out, data=data, gguf_file=gguf_file, teacher_dtype=teacher_dtype,
            cache_teacher=cache_teacher, without=without or (), recipe=recipe, settings=assign,
            control=control, resume=resume, **callbacks,
        )  # fmt: skip
    print_run(result, as_json=as_json)
