"""The teacher, run without gradients in its own precision, for the outputs that terms need."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from spikeformers.errors import ConfigError
from spikeformers.training.distillation.config import SpADConfig
from spikeformers.training.distillation.mapping import Alignment

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class TeacherOutput(NamedTuple):
    """The targets of the losses; None if no active term needs them."""

    embedding: Tensor | None = None
    """``[B, T, D]``"""
    attentions: tuple[Tensor, ...] | None = None
    """``[B, H, T, T]`` per mapped layer"""
    features: tuple[Tensor, ...] | None = None
    """``[B, T, D]`` per mapped layer; the last after the final norm, as in Transformers"""
    logits: Tensor | None = None
    """``[B, T, V]``"""


@dataclass(frozen=True)
class Needs:
    """The outputs to compute; ``layers`` count from 1, one per mapped student layer."""

    layers: tuple[int, ...]
    embedding: bool = False
    attentions: bool = False
    features: bool = False
    logits: bool = False

    @classmethod
    def of(cls, spad: SpADConfig, alignment: Alignment) -> Needs:
        """The outputs that the active terms need."""
        return cls(
            tuple(layer for _, layer in alignment.layers),
            *(term in spad.active for term in ("ea", "saa", "sfa", "sta")),
        )

    def __bool__(self) -> bool:
        return self.embedding or self.attentions or self.features or self.logits


class Teacher:
    """A frozen causal model; not a module, so that it is neither checkpointed nor sharded."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model: Any = model.eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, needs: Needs) -> TeacherOutput:
        """Outputs for ids ``[B, T]``. Raises ConfigError for a model that does not return them."""
        with torch.autocast(input_ids.device.type, enabled=False):
            out = self.model(
                input_ids=input_ids,
                use_cache=False,
                output_hidden_states=needs.embedding or needs.features,
                output_attentions=needs.attentions,
            )
        hidden, maps = out.get("hidden_states"), out.get("attentions")
        if (needs.embedding or needs.features) and not hidden:
            raise ConfigError(f"{self._name} returns no hidden states: leave out ea and sfa.")
        if needs.attentions and (not maps or any(weights is None for weights in maps)):
            raise ConfigError(f"{self._name} returns no attention maps: leave out saa.")
        return TeacherOutput(
            hidden[0] if needs.embedding else None,
            tuple(maps[layer - 1] for layer in needs.layers) if needs.attentions else None,
            tuple(hidden[layer] for layer in needs.layers) if needs.features else None,
            out.logits if needs.logits else None,
        )

    def with_head_input(self, input_ids: Tensor, needs: Needs) -> tuple[TeacherOutput, Tensor]:
        """Outputs, and the input of the head, ``[B, T, D]``."""
        head_inputs: list[Tensor] = []
        head = self.model.get_output_embeddings()
        hook = head.register_forward_pre_hook(lambda _, args: head_inputs.append(args[0]))
        try:
            out = self(input_ids, needs)
            # A spiking model has a leading dimension S = 1 here.
            return out, head_inputs[-1].reshape(*input_ids.shape, -1)
        finally:
            hook.remove()

    @torch.no_grad()
    def logits(self, head_input: Tensor) -> Tensor:
        """Only the head, ``[B, T, D]`` to ``[B, T, V]``."""
        with torch.autocast(head_input.device.type, enabled=False):
            logits: Tensor = self.model.get_output_embeddings()(head_input)
        return logits

    @property
    def _name(self) -> str:
        return f"The teacher ({type(self.model).__name__})"

    def digest(self) -> str:
        """sha256 (hex) of the weights, with their names, types and shapes."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
            digest.update(memoryview(raw.numpy()))
        return digest.hexdigest()
