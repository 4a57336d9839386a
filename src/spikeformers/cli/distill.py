"""``spikeformers distill``: a spiking student from a trained teacher (SpAD)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spikeformers.cli._options import Json


def distill(
    out: Annotated[Path, typer.Option(help="Run folder; the student ends up in it.")],
    teacher: Annotated[
        str,
        typer.Option(help="Causal model: a folder of this project or of Transformers, a hub name."),
    ] = "",
    gguf_file: Annotated[
        str, typer.Option(help="GGUF file in the teacher's folder or repository.")
    ] = "",
    teacher_dtype: Annotated[
        str, typer.Option(help="auto (the weights' own), fp32, bf16 or fp16.", show_default="auto")
    ] = "",
    cache_teacher: Annotated[
        str,
        typer.Option(help="Keep the teacher's outputs: a folder, or auto.", metavar="DIR|auto"),
    ] = "",
    student: Annotated[
        str, typer.Option(help="Preset of the student, such as wd-spikingformer-tiny.")
    ] = "",
    data: Annotated[
        str,
        typer.Option(
            help="builtin, a text, JSONL or Parquet file, a folder, or a data set of the hub."
        ),
    ] = "",
    without: Annotated[
        list[str] | None,
        typer.Option(help="Leave out a term, often: ea, saa, sfa, sta, hta.", metavar="TERM"),
    ] = None,
    assign: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value, often: a key of the recipe.", metavar="KEY=VALUE"),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(help="YAML file with preset, model, train, data and distill keys."),
    ] = None,
    control: Annotated[
        bool, typer.Option("--control", help="Distil the dense twin of the preset instead.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out, exactly.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Distil a spiking student from a causal teacher, by spike-aware alignment (SpAD).

    Examples:
    spikeformers distill --teacher runs/twin --student wd-spikingformer-tiny --data my_texts/
    --out runs/student

    spikeformers distill ... --without saa --set sta=0.5 --set tau=4

    spikeformers distill --out runs/student --resume

    The loss is 0.2 ea (embeddings) + 0.1 saa (attention maps) + 0.1 sfa (features) + 0.3 sta (soft
    targets) + 0.3 hta (next token) and the student's firing-rate term. Keys: fields of SpADConfig
    (a term's weight, tau, layer_map, rate_steps ...) and those of pretrain. The student takes the
    teacher's tokenizer. --without ea --without saa --without sfa --without sta is the control:
    cross-entropy alone, on the same tokens in the same order. Ctrl-C, --resume and torchrun work
    as in pretrain.

    JSON: as pretrain; validation has teacher_agreement and teacher_kl as well.
    """
    from spikeformers.cli._distill import describe_teacher, prepare, reopen
    from spikeformers.cli._output import is_main_process, start
    from spikeformers.cli._recipe import Recipe, from_assignments, read_recipe
    from spikeformers.cli._run import carry_out, check_out
    from spikeformers.training.distillation import without as weights_without

    start(verbose=is_main_process())
    given = read_recipe(recipe) if recipe else Recipe()
    who = {
        "teacher": teacher,
        "gguf_file": gguf_file,
        "teacher_dtype": teacher_dtype,
        "cache_teacher": cache_teacher,
    }
    named = Recipe(
        student,
        control,
        data={"source": data} if data else {},
        distill={key: value for key, value in who.items() if value},
    )
    given = given.merge(named)
    given = given.merge(from_assignments(assign or [], given.preset))
    given = given.merge(Recipe(distill=dict(weights_without(without or []))))
    check_out(out, resume=resume)
    run, task = reopen(out, given) if resume else prepare(given)
    if is_main_process():
        describe_teacher(task, run.request)
    teaches = run.request["distill"]
    card = {
        "distilled from": f"{teaches['teacher']} {teaches['gguf_file']}".strip(),
        "terms": ", ".join(f"{term} {weight:g}" for term, weight in task.spad.weights.items()),
    }
    carry_out(run, out, resume=resume, as_json=as_json, task=task, card=card)
