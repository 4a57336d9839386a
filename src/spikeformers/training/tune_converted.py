"""Training of a converted model: its spiking attention, attention and norms, or everything.

    attention     only the spiking attention, with its thresholds; the paper's third step
    norms         attention, and every norm of the model
    everything    all parameters: also feed-forward and its thresholds, embeddings, head

Dead zones may follow a schedule of densities meanwhile (``density_schedule``). The loss is the
language model's, or with a teacher ``kd * tau^2 KL(teacher || model)`` plus
``1 - kd`` times the language model's (``distillation``). NeurTransformer,
https://arxiv.org/abs/2510.00133, step 3, does not give loss, learning rate or amount of text.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from spikeformers.errors import ConfigError, nearest
from spikeformers.neurons import neurons_of
from spikeformers.training.config import TrainConfig
from spikeformers.training.density_schedule import DensitySchedule
from spikeformers.training.distillation import SpADConfig
from spikeformers.training.distillation.objective import Distillation
from spikeformers.training.distributed import World
from spikeformers.training.task import Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from spikeformers.models._converted import SpikingSelfAttention

PARTS = ("attention", "norms", "everything")
_NORM = re.compile(r"(^|[._])(ln_\w+|\w*norm)\.")
KD = 0.5
"""Weight of the teacher's probabilities; the text's own next token has the rest.
Unspecified by the paper."""


def train_only(model: PreTrainedModel, part: str) -> int:
    """Freeze all of ``model`` except ``part``; returns the number of parameters left to train.

    Raises ConfigError for a part that is unknown or absent, and for a model whose neurons run step
    by step, through which no gradient passes.
    """
    if part not in PARTS:
        raise ConfigError(
            f"{part!r} is not a part; one of {', '.join(PARTS)}.{nearest(part, PARTS)}"
        )
    config: Any = model.config
    attentions = spiking_attentions(model)
    if not config.passes_gradients:
        raise ConfigError(
            "no gradient passes through neurons that run step by step (unrolled, pipelined); tune "
            "the model with unrolled=false and schedule=layerwise, which has the same weights."
        )
    inside = {id(parameter) for module in attentions.values() for parameter in module.parameters()}
    if not inside and part != "everything":
        raise ConfigError(
            "this model kept its softmax attention, so there is no spiking attention to train. "
            "Train everything."
        )
    neurons = neurons_of(model).values()
    without_gradient = {id(neuron.dead_zone) for neuron in neurons if neuron.has_dead_zone}
    count = 0
    for name, parameter in model.named_parameters():
        trains = part == "everything" or id(parameter) in inside
        trains = trains or (part == "norms" and _NORM.search(name) is not None)
        trains = trains and id(parameter) not in without_gradient
        parameter.requires_grad_(trains)
        count += parameter.numel() if trains else 0
    return count


def spiking_attentions(model: PreTrainedModel) -> dict[int, SpikingSelfAttention]:
    """Layer number -> spiking attention of a converted model; ConfigError for another model."""
    stated = getattr(model, "spiking_attentions", None)
    if stated is None:
        raise ConfigError(
            f"{model.config.model_type} is not a converted model; `spikeformers convert` it."
        )
    attentions: dict[int, SpikingSelfAttention] = stated()
    return attentions


class PartTuning(Task):
    """What both tasks share: the part that is trained, and the densities on the way."""

    counts_flops = False
    part: str
    densities: DensitySchedule | None

    def _train(self, part: str, densities: DensitySchedule | None) -> None:
        self.part, self.densities = part, densities
        train_only(self.model, part)

    def start(self, store: Any, config: TrainConfig, world: World) -> None:
        super().start(store, config, world)
        if self.densities is not None:
            self.densities.start(config, world)

    def stepped(self, step: int, world: World) -> None:
        super().stepped(step, world)
        if self.densities is not None:
            self.densities.stepped(step, world)

    def record(self) -> dict[str, Any]:
        densities = {} if self.densities is None else self.densities.record()
        return {"trains": self.part, **super().record(), **densities}

    def close(self) -> None:
        super().close()
        if self.densities is not None:
            self.densities.close()


class ConvertedTuning(PartTuning):
    """Trains a part of the model on the model's own loss."""

    def __init__(
        self, model: PreTrainedModel, part: str, densities: DensitySchedule | None = None
    ) -> None:
        super().__init__(model)
        self._train(part, densities)


class DistilledTuning(PartTuning, Distillation):
    """Trains a part on the soft targets of ``teacher``, the dense original, and on the text."""

    def __init__(
        self,
        model: PreTrainedModel,
        teacher: PreTrainedModel,
        part: str,
        kd: float,
        tau: float,
        densities: DensitySchedule | None = None,
    ) -> None:
        if not 0 < kd <= 1:
            raise ConfigError(f"the weight of the teacher must lie in (0, 1], not {kd}.")
        choices = {"ea": 0.0, "saa": 0.0, "sfa": 0.0, "sta": kd, "hta": 1 - kd, "tau": tau}
        super().__init__(model, teacher, SpADConfig(**choices))  # type: ignore[arg-type]
        self._train(part, densities)
