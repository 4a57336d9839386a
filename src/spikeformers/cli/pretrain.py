"""``spikeformers pretrain``: train a language model from scratch."""

from __future__ import annotations

from typing import Annotated

import typer

from spikeformers.cli._options import Control, Json, Out, RecipeFile, Resume, Set


def pretrain(
    out: Out,
    preset: Annotated[
        str,
        typer.Option(
            help="Preset: model and size, such as wd-spikingformer-tiny (causal) or "
            "we-spikingformer-tiny (masked)."
        ),
    ] = "",
    data: Annotated[
        str,
        typer.Option(
            "--data",
            help="Text: builtin, a text, JSONL or Parquet file, a folder, a data set on the hub, "
            "or a token store of spikeformers tokenize.",
        ),
    ] = "",
    tokenizer: Annotated[
        str,
        typer.Option(help="byte, bpe:SIZE (trained on the text), a folder, or a name on the hub."),
    ] = "",
    assign: Set = None,
    recipe: RecipeFile = None,
    control: Control = False,
    resume: Resume = False,
    profile: Annotated[
        bool,
        typer.Option("--profile", help="Write a trace of a few steps into the run folder."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a spiking language model, or its dense twin, from scratch.

    Examples:
    spikeformers pretrain --preset wd-spikingformer-tiny --data builtin --out runs/x
    --set steps=500 --set wta=top_k

    spikeformers pretrain --out runs/x --resume

    Keys of --set: fields of TrainConfig (steps, batch_size, context, learning_rate, seed ...), of
    the model's config (hidden_size, attention, wta, levels, firing_rate_target ...) and of the data
    (text_field, validation_fraction, config_name). steps means training steps; a model's simulation
    steps are model.steps. Setting one of context and max_position_embeddings sets the other too.
    Ctrl-C leaves a checkpoint; --resume continues. For several processes: torchrun -m spikeformers
    pretrain ...

    JSON: steps, tokens_seen, seconds, tokens_per_second, parameters, interrupted, validation
    (loss, perplexity, bits_per_byte; for a masked model loss, masked_perplexity), out.
    """
    from spikeformers.cli._output import on_terminal, print_run

    with on_terminal() as callbacks:
        from spikeformers import runs

        result = runs.pretrain(
            preset, out=out, data=data, tokenizer=tokenizer, recipe=recipe, settings=assign,
            control=control, resume=resume, profile=profile, **callbacks,
        )  # fmt: skip
    print_run(result, as_json=as_json)
