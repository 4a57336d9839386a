"""Attention transfer: each spiking attention learns to say what the softmax it replaced says.

    L = mean over layers of  |A_S(x) - A_T(x)|^2 / |A_T(x)|^2

x is what goes into that attention of the dense original (T), on real text; A_S and A_T are what the
spiking and the dense attention, output map included, make of it. So every layer learns at once and
from the right input, no gradient passes between blocks, and a step costs a forward pass of the
original and the attention alone: no feed-forward block and no head of the spiking model. Errors
that add up from block to block are not seen; the language model's loss afterwards sees them.

From softmax to linear attention: LoLCATs, https://arxiv.org/abs/2410.10254. To spiking attention:
an addition, not in NeurTransformer, https://arxiv.org/abs/2510.00133.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import ModelOutput

from spikeformers.errors import ConfigError
from spikeformers.models._converted import SpikingSelfAttention
from spikeformers.models._sources import source_of, watching
from spikeformers.training.batches import check_context
from spikeformers.training.config import TrainConfig
from spikeformers.training.distributed import World
from spikeformers.training.task import Task
from spikeformers.training.tune_converted import train_only

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Seen(NamedTuple):
    """What one dense attention was given and said, ``[B, T, D]``, and the rotary cos and sin."""

    given: Tensor
    said: Tensor
    rotary: tuple[Tensor, Tensor] | None


@dataclass
class TransferOutput(ModelOutput):
    """``loss`` is the mean over layers of the relative squared error."""

    loss: Tensor | None = None


class Transferred(nn.Module):
    """The spiking model, called for its attention alone where there is something to compare.

    ``errors``: layer -> relative squared error, a scalar, of the last comparison.
    """

    def __init__(self, student: PreTrainedModel) -> None:
        super().__init__()
        self.student = student
        self.errors: dict[int, Tensor] = {}

    def forward(
        self, input_ids: Tensor, labels: Tensor, seen: Mapping[int, Seen] | None = None
    ) -> Any:
        """The model's own output; with ``seen`` a ``TransferOutput``."""
        if seen is None:
            return self.student(input_ids=input_ids, labels=labels)
        blocks = spiking_attentions(self.student)
        errors = {}
        for layer, one in seen.items():
            mine = blocks[layer](one.given, position_embeddings=one.rotary)[0]
            errors[layer] = (mine.float() - one.said).square().sum() / one.said.square().sum()
        self.errors = {layer: error.detach() for layer, error in errors.items()}
        return TransferOutput(torch.stack(list(errors.values())).mean())


def spiking_attentions(model: PreTrainedModel) -> dict[int, SpikingSelfAttention]:
    """Layer -> its attention, of the layers whose attention spikes."""
    found = [one for one in model.modules() if isinstance(one, SpikingSelfAttention)]
    return {one.layer_idx: one for one in found}


class AttentionTransfer(Task):
    """Trains the spiking attention of ``model`` against that of ``teacher``, its dense original.

    Raises ConfigError for a teacher of another architecture or shape.
    """

    plain_loss = ""  # the one loss there is

    def __init__(self, model: PreTrainedModel, teacher: PreTrainedModel) -> None:
        super().__init__(model)
        train_only(model, "attention")
        config: Any = model.config
        described = config.source
        if teacher.config.model_type != described["model_type"]:
            raise ConfigError(
                f"this model was converted from a {described['model_type']}, and the teacher is a "
                f"{teacher.config.model_type}; give the model that it was converted from."
            )
        mine, theirs = model.model.config, teacher.config
        shape = source_of(theirs.model_type).shape
        if (shape(mine), mine.num_hidden_layers) != (shape(theirs), theirs.num_hidden_layers):
            raise ConfigError(
                "the teacher has other layers than the model that this one was converted from; "
                "give that one."
            )
        self.teacher = teacher.eval().requires_grad_(False)
        self.layers = set(spiking_attentions(model))
        self.module: nn.Module = Transferred(model)

    def start(self, store: Any, config: TrainConfig, world: World) -> None:
        if world.strategy == "fsdp":
            raise ConfigError(
                "attention transfer calls the attention alone, which FSDP does not gather; run it "
                "on one process, or with strategy=ddp."
            )
        check_context(self.teacher, config.context, "the teacher")
        self.teacher.to(world.device)  # type: ignore[arg-type]

    @torch.no_grad()
    def look(self, input_ids: Tensor) -> dict[int, Seen]:
        """What goes into and out of the dense attention of each layer whose own one spikes."""
        seen: dict[int, Seen] = {}

        def keep(layer: int, _: str, x: Tensor, y: Tensor, given: Mapping[str, Any]) -> None:
            if layer in self.layers:
                turned = given.get("position_embeddings")
                rotary = None if turned is None else (turned[0].float(), turned[1].float())
                seen[layer] = Seen(x.float(), y.float(), rotary)

        with (
            torch.autocast(input_ids.device.type, enabled=False),
            watching(self.teacher, ("attention",), keep),
        ):
            self.teacher(input_ids=input_ids, use_cache=False, logits_to_keep=1)
        return seen

    def inputs(self, part: Any, device: torch.device) -> dict[str, Any]:
        batch: dict[str, Any] = part.to(device)
        return batch | {"seen": self.look(batch["input_ids"])}

    def record(self) -> dict[str, Any]:
        return {"trains": "attention", "loss": "attention transfer"}

    def measured(self) -> dict[str, Any]:
        """Which blocks are hard to learn: the error of each in the step's last micro-batch."""
        errors = cast("Transferred", self.module).errors
        return {"error_by_layer": {str(layer): error.item() for layer, error in errors.items()}}
