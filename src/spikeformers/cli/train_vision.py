"""``spikeformers train-vision``: train an image classifier from scratch."""

from __future__ import annotations

from typing import Annotated

import typer

from spikeformers.cli._options import Control, Json, Out, RecipeFile, Resume, Root, Set


def train_vision(
    out: Out,
    preset: Annotated[
        str, typer.Option(help="Preset: model and training settings, such as a2os2a-digits.")
    ] = "",
    data: Annotated[
        str,
        typer.Option(
            help="Images: digits; cifar10, cifar100, fashion-mnist or imagenet-folder (in --root); "
            "nmnist or dvs-gesture, recordings of events; or a folder of images, npz, IDX, CIFAR "
            "binary files or recordings."
        ),
    ] = "",
    root: Root = "",
    assign: Set = None,
    recipe: RecipeFile = None,
    control: Control = False,
    resume: Resume = False,
    as_json: Json = False,
) -> None:
    """Train a spiking vision transformer, or its dense twin, from scratch.

    Examples:
    spikeformers train-vision --preset a2os2a-digits --data digits --out runs/digits

    spikeformers train-vision --preset a2os2a-cifar-2-256 --data my_images/ --out runs/cifar
    --set epochs=20 --set attention=ssa

    spikeformers train-vision --preset a2os2a-nmnist --data nmnist --root sets/ --out runs/nmnist

    A preset includes its training settings. Keys of --set: fields of TrainConfig (steps,
    batch_size, learning_rate ...), of VisionConfig (epochs, randaugment, mixup, cutmix, erasing,
    label_smoothing, ema_decay ...), of the model's config (attention, key_neuron, value_neuron,
    hidden_size ...) and of the data (validation_fraction; fit=true converts, resizes and crops
    images of another size or mode; broken=skip leaves out images that cannot be read). steps means
    training steps and overrides epochs; a model's simulation steps are model.steps. Ctrl-C leaves a
    checkpoint; --resume continues. For several processes: torchrun -m spikeformers train-vision ...

    JSON: steps, images_seen, seconds, images_per_second, parameters, interrupted, validation
    (loss, accuracy), out.
    """
    from spikeformers.cli._output import on_terminal, print_run

    with on_terminal() as callbacks:
        from spikeformers import runs

        result = runs.train_vision(
            preset, out=out, data=data, root=root, recipe=recipe, settings=assign,
            control=control, resume=resume, **callbacks,
        )  # fmt: skip
    print_run(result, as_json=as_json)
