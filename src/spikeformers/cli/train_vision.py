"""``spikeformers train-vision``: an image classifier from scratch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spikeformers.cli._options import Json


def train_vision(
    out: Annotated[Path, typer.Option(help="Run folder; the model ends up in it.")],
    preset: Annotated[
        str, typer.Option(help="Model and its training, such as a2os2a-digits.")
    ] = "",
    data: Annotated[
        str,
        typer.Option(
            help="digits, cifar10, cifar100, fashion-mnist, imagenet-folder (in --root), or a "
            "folder of images, npz, IDX or CIFAR's binary files."
        ),
    ] = "",
    root: Annotated[str, typer.Option(help="Folder that holds a data set named by --data.")] = "",
    assign: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value, often: a key of the recipe.", metavar="KEY=VALUE"),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(help="YAML file with preset, model, train, vision and data keys."),
    ] = None,
    control: Annotated[
        bool, typer.Option("--control", help="Train the dense twin (ViT) of the preset instead.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out, exactly.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a spiking vision transformer, or its dense twin, from scratch.

    Examples:
    spikeformers train-vision --preset a2os2a-digits --data digits --out runs/digits

    spikeformers train-vision --preset a2os2a-cifar-2-256 --data my_images/ --out runs/cifar
    --set epochs=20 --set attention=ssa

    A preset brings its own training; --set reaches each key of it: fields of TrainConfig (steps,
    batch_size, learning_rate ...), of VisionConfig (epochs, randaugment, mixup, cutmix, erasing,
    label_smoothing, ema_decay ...), of the model's config (attention, key_neuron, value_neuron,
    hidden_size ...) and of the data (validation_fraction; fit=true converts, resizes and crops
    images of another size or mode; broken=skip leaves out images that cannot be read). steps alone
    are training steps and win over epochs; a model's simulation steps are model.steps. Ctrl-C
    leaves a checkpoint; runs in several processes under torchrun -m spikeformers train-vision ...

    JSON: steps, images_seen, seconds, images_per_second, parameters, interrupted, validation
    (loss, accuracy), out.
    """
    from spikeformers.cli._output import is_main_process, start
    from spikeformers.cli._recipe import Recipe, from_assignments, read_recipe
    from spikeformers.cli._run import check_out
    from spikeformers.cli._vision import carry_out, prepare, preset_of, reopen

    start(verbose=is_main_process())
    check_out(out, resume=resume)
    given = read_recipe(recipe) if recipe else Recipe()
    named = {key: value for key, value in {"source": data, "root": root}.items() if value}
    given = given.merge(Recipe(preset, control, data=named))
    known = given.preset or (preset_of(out) if resume else "")
    given = given.merge(from_assignments(assign or [], known))
    run = reopen(out, given) if resume else prepare(given)
    carry_out(run, out, resume=resume, as_json=as_json)
