"""The density of a converted model on its way down, while its weights learn.

    d(n)   = d_0 + (d_1 - d_0) min(1, n / (ramp N))     of a layer of neurons, after n steps
    q      = the (1 - d(n)) quantile of |x| / mean |x|  over the tokens of the step
    tau   <- tau + FOLLOWS (q - tau)

N is the number of steps of the learning rate's schedule, so that a run that is continued keeps d_1.
Each layer of neurons with a threshold per token (`spikeformers.neurons.token_if`) goes from its
density d_0 to d_1 over the first part of a run and keeps it, by its dead zone tau, so that the
weights learn with the silence that they end with. No gradient reaches tau; those of silent values
pass straight through, as in the neuron.

Differs from the learned dead zone of models trained from scratch (`spikeformers.neurons.dead_zone`,
whose threshold a firing-rate term moves): a quantile reaches the density that was asked for within
a few steps, and needs no weight in the loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spikeformers.errors import ConfigError
from spikeformers.neurons import Neuron, neurons_of
from spikeformers.neurons.token_if import relative_size
from spikeformers.training.config import TrainConfig
from spikeformers.training.distributed import World

RAMP = 0.5
"""Share of the steps after which the last densities are reached."""
FOLLOWS = 0.25
"""Share of the way to the batch's quantile that tau goes in a step."""
SAMPLED = 1 << 16  # values of a layer per step


class Course(NamedTuple):
    """Densities of one layer of neurons at the beginning and from the ramp's end on."""

    start: float
    end: float

    def at(self, done: float) -> float:
        """The density when the share ``done`` of the ramp is over."""
        return self.start + (self.end - self.start) * min(1.0, done)


class DensitySchedule:
    """Moves the dead zones of ``model`` during training; ``courses`` are by the neurons' names.

    Raises ConfigError for a name without neurons that have a dead zone.
    """

    def __init__(self, model: nn.Module, courses: Mapping[str, Course], ramp: float = RAMP) -> None:
        neurons = neurons_of(model)
        for name in courses:
            if name not in neurons or not neurons[name].has_dead_zone:
                raise ConfigError(
                    f"{name} is not a layer of neurons with a dead zone: convert the model with "
                    "threshold='token'."
                )
        self.neurons = {name: neurons[name] for name in courses}
        self.courses, self.ramp = dict(courses), ramp
        self._steps = 0
        self._sizes: dict[str, Tensor] = {}
        self._handles: list[Any] = []

    def start(self, config: TrainConfig, world: World) -> None:
        """Begin to watch. ConfigError where the neurons cannot be watched or set."""
        if config.compile:
            raise ConfigError(
                "a density during training watches the neurons one by one, which a compiled model "
                "does not allow; train with compile=false."
            )
        if world.strategy == "fsdp":
            raise ConfigError(
                "a density during training sets dead zones, which FSDP shards; run it in one "
                "process, or with strategy=ddp."
            )
        self._steps = config.schedule_span
        for name, neuron in self.neurons.items():
            self._handles.append(neuron.register_forward_hook(self._watcher(name)))

    def _watcher(self, name: str) -> Any:
        def watch(neuron: Neuron, inputs: tuple[Tensor, ...], _: Tensor) -> None:
            if neuron.training and name not in self._sizes:  # one micro-batch of a step is enough
                self._sizes[name] = sampled_sizes(inputs[0].detach())

        return watch

    def stepped(self, step: int, world: World) -> None:
        """Move every dead zone after ``step`` (from 1) of the run."""
        done = step / max(1.0, self.ramp * self._steps)
        quantiles = [quantile(self._sizes[name], 1 - course.at(done))
                     for name, course in self.courses.items()]  # fmt: skip
        for neuron, aim in zip(self.neurons.values(), world.mean(quantiles), strict=True):
            tau = neuron.dead_zone.data
            tau += FOLLOWS * (aim - tau)
        self._sizes.clear()

    def record(self) -> dict[str, Any]:
        """The densities, for ``run.json``."""
        courses = {name: list(course) for name, course in self.courses.items()}
        return {"densities": courses, "density_ramp": self.ramp}

    def close(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._sizes.clear()


def sampled_sizes(currents: Tensor) -> Tensor:
    """|x| / mean |x| of whole rows of ``[..., D]``, evenly spread, about SAMPLED values."""
    rows = currents.flatten(0, -2)
    return relative_size(rows[:: max(1, rows.numel() // SAMPLED)].float()).flatten()


def quantile(sizes: Tensor, level: float) -> float:
    """The smallest value that the share ``level`` of ``sizes`` does not exceed; 0 at level 0."""
    rank = round(level * sizes.numel())
    return float(torch.kthvalue(sizes, rank).values) if rank > 0 else 0.0
