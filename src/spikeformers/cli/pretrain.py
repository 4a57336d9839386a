"""``spikeformers pretrain``: a model from scratch, from text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spikeformers.cli._options import Json

if TYPE_CHECKING:
    from spikeformers.cli._recipe import Recipe


def pretrain(
    out: Annotated[Path, typer.Option(help="Run folder; the model ends up in it.")],
    preset: Annotated[
        str,
        typer.Option(
            help="Model and size, such as wd-spikingformer-tiny (causal) or "
            "we-spikingformer-tiny (masked)."
        ),
    ] = "",
    data: Annotated[
        str,
        typer.Option(
            help="builtin, a text, JSONL or Parquet file, a folder, or a data set of the hub."
        ),
    ] = "",
    tokenizer: Annotated[
        str, typer.Option(help="byte, bpe:SIZE (trained on the text), a folder, or a hub name.")
    ] = "",
    assign: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value, often: a key of the recipe.", metavar="KEY=VALUE"),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="YAML file with preset, model, train and data keys.")
    ] = None,
    control: Annotated[
        bool, typer.Option("--control", help="Train the dense twin of the preset instead.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out, exactly.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a spiking language model, or its dense twin, from scratch.

    Examples:
    spikeformers pretrain --preset wd-spikingformer-tiny --data builtin --out runs/x
    --set steps=500 --set wta=top_k

    spikeformers pretrain --out runs/x --resume

    Keys: fields of TrainConfig (steps, batch_size, context, learning_rate, seed ...), of the
    model's config (hidden_size, attention, wta, levels, firing_rate_target ...) and of the data
    (text_field, validation_fraction, config_name). steps alone are training steps; a model's
    simulation steps are model.steps. context and max_position_embeddings follow each other
    unless both are set. Ctrl-C leaves a checkpoint; runs in several processes under
    torchrun -m spikeformers pretrain ...

    JSON: steps, tokens_seen, seconds, tokens_per_second, parameters, interrupted, validation
    (loss, perplexity, bits_per_byte; of a masked model loss, masked_perplexity), out.
    """
    from spikeformers.cli._recipe import Recipe, from_assignments, read_recipe

    given = read_recipe(recipe) if recipe else Recipe()
    options = {"source": data, "tokenizer": tokenizer}
    given = given.merge(
        Recipe(preset, control, data={key: value for key, value in options.items() if value})
    )
    given = given.merge(from_assignments(assign or [], given.preset))
    _train(given, out, resume=resume, as_json=as_json)


def _train(given: Recipe, out: Path, *, resume: bool, as_json: bool) -> None:
    from spikeformers.cli._output import is_main_process, start
    from spikeformers.cli._run import carry_out, check_out, prepare, reopen

    start(verbose=is_main_process())
    check_out(out, resume=resume)
    run = reopen(out, given) if resume else prepare(given)
    carry_out(run, out, resume=resume, as_json=as_json)
