"""Attention transfer: each spiking attention learns the output of the softmax that it replaced.

    L = mean over layers of  |A_S(x) - A_T(x)|^2 / |A_T(x)|^2

x is the input of the attention in the dense original (T) on real text; A_S(x) and A_T(x) are the
outputs of the spiking and the dense attention, after their output map. All layers thus learn at the
same time from correct inputs, no gradient passes between blocks, and a step costs a forward pass of
the original and of the spiking attention, without feed-forward blocks or head of the spiking model.
The loss does not contain errors that accumulate from block to block; training on the language
model's loss afterwards does.

LoLCATs, https://arxiv.org/abs/2410.10254, does this from softmax to linear attention. Its use for
spiking attention is our addition to NeurTransformer, https://arxiv.org/abs/2510.00133.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import ModelOutput

from spikeformers.errors import ConfigError
from spikeformers.models._sources import source_of, watching
from spikeformers.training.batches import check_context
from spikeformers.training.config import TrainConfig
from spikeformers.training.distributed import World
from spikeformers.training.task import Task
from spikeformers.training.tune_converted import spiking_attentions, train_only

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class AttentionRecord(NamedTuple):
    """Input and output ``[B, T, D]`` of one dense attention, and the rotary cos and sin."""

    input: Tensor
    output: Tensor
    rotary: tuple[Tensor, Tensor] | None


@dataclass
class TransferOutput(ModelOutput):
    """``loss`` is the mean over layers of the relative squared error."""

    loss: Tensor | None = None


class Transferred(nn.Module):
    """The spiking model, of which only the attention is called to compare it with the teacher.

    ``errors``: layer -> relative squared error, a scalar, of the last comparison.
    """

    def __init__(self, student: PreTrainedModel) -> None:
        super().__init__()
        self.student = student
        self.errors: dict[int, Tensor] = {}

    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor,
        records: Mapping[int, AttentionRecord] | None = None,
    ) -> Any:
        """The model's own output; a ``TransferOutput`` if the teacher's ``records`` are given."""
        if records is None:
            return self.student(input_ids=input_ids, labels=labels)
        blocks = spiking_attentions(self.student)
        errors = {}
        for layer, record in records.items():
            output = blocks[layer](record.input, position_embeddings=record.rotary)[0]
            squared_error = (output.float() - record.output).square().sum()
            errors[layer] = squared_error / record.output.square().sum()
        self.errors = {layer: error.detach() for layer, error in errors.items()}
        return TransferOutput(torch.stack(list(errors.values())).mean())


class AttentionTransfer(Task):
    """Trains the spiking attention of ``model`` against that of ``teacher``, its dense original.

    Raises ConfigError for a teacher of another architecture or shape.
    """

    counts_flops = False

    plain_loss = ""  # there is only one loss

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
        student_config, teacher_config = model.model.config, teacher.config
        shape = source_of(teacher_config.model_type).shape
        if (shape(student_config), student_config.num_hidden_layers) != (
            shape(teacher_config),
            teacher_config.num_hidden_layers,
        ):
            raise ConfigError(
                "the layers of the teacher differ from those of the model that this one was "
                "converted from; give that model."
            )
        self.teacher = teacher.eval().requires_grad_(False)
        self.layers = set(spiking_attentions(model))
        self.module: nn.Module = Transferred(model)

    def start(self, store: Any, config: TrainConfig, world: World) -> None:
        if world.strategy == "fsdp":
            raise ConfigError(
                "attention transfer calls only the attention, which FSDP does not gather; run it "
                "in one process, or with strategy=ddp."
            )
        check_context(self.teacher, config.context, "the teacher")
        self.teacher.to(world.device)  # type: ignore[arg-type]

    @torch.no_grad()
    def teacher_records(self, input_ids: Tensor) -> dict[int, AttentionRecord]:
        """Input and output of the teacher's attention in each layer whose attention spikes."""
        records: dict[int, AttentionRecord] = {}

        def keep(layer: int, _: str, x: Tensor, y: Tensor, kwargs: Mapping[str, Any]) -> None:
            if layer in self.layers:
                cos_sin = kwargs.get("position_embeddings")
                rotary = None if cos_sin is None else (cos_sin[0].float(), cos_sin[1].float())
                records[layer] = AttentionRecord(x.float(), y.float(), rotary)

        with (
            torch.autocast(input_ids.device.type, enabled=False),
            watching(self.teacher, ("attention",), keep),
        ):
            self.teacher(input_ids=input_ids, use_cache=False, logits_to_keep=1)
        return records

    def inputs(self, part: Any, device: torch.device) -> dict[str, Any]:
        batch: dict[str, Any] = part.to(device)
        return batch | {"records": self.teacher_records(batch["input_ids"])}

    def record(self) -> dict[str, Any]:
        return {"trains": "attention", "loss": "attention transfer"}

    def measured(self) -> dict[str, Any]:
        """The error of each layer in the step's last micro-batch: which layers learn slowly."""
        errors = cast("Transferred", self.module).errors
        return {"error_by_layer": {str(layer): error.item() for layer, error in errors.items()}}
