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
    from spikeformers.cli._output import (
        is_main_process,
        make_table,
        print_json,
        print_table,
        say,
        start,
    )
    from spikeformers.cli._run import (
        REQUEST,
        describe,
        prepare,
        refuse_taken,
        reopen,
    )
    from spikeformers.reporting import training_card
    from spikeformers.training import train

    start(verbose=is_main_process())
    if not resume:
        refuse_taken(out)
    run = reopen(out, given) if resume else prepare(given)
    run.store.manifest[REQUEST] = run.request
    if is_main_process():
        describe(run)
    result = train(
        run.model,
        run.store,
        run.tokenizer,
        out,
        run.config,
        resume=resume,
        model_card=lambda result: training_card(out.name, run.model, run.store, run.config, result),
    )
    if not is_main_process():
        return
    if as_json:
        print_json(
            {
                "steps": result.steps,
                "tokens_seen": result.tokens_seen,
                "seconds": result.seconds,
                "tokens_per_second": result.tokens_per_second,
                "parameters": run.model.num_parameters(),
                "interrupted": result.interrupted,
                "validation": result.final_validation,
                "out": str(out),
            }
        )
    elif not result.interrupted:
        ended = result.final_validation
        if "masked_perplexity" in ended:
            measured = [
                ("validation loss", f"{ended['loss']:.4f} nats a masked token"),
                ("masked perplexity", f"{ended['masked_perplexity']:,.2f}"),
            ]
        else:
            measured = [
                ("validation loss", f"{ended['loss']:.4f} nats a token"),
                ("perplexity", f"{ended['perplexity']:,.2f} a token"),
                ("bits per byte", f"{ended['bits_per_byte']:.4f}"),
            ]
        rows = [
            *measured,
            ("tokens seen", f"{result.tokens_seen:,}"),
            ("training", f"{result.seconds:,.1f} s, {result.tokens_per_second:,.0f} tokens/s"),
            ("model", str(out)),
        ]
        print_table(make_table("", ("trained", f"{result.steps:,} steps"), rows))
    if result.interrupted:
        again = f"spikeformers pretrain --out {out} --resume"
        say(f"Stopped after step {result.steps}; {again} goes on.")
        raise typer.Exit(130)
