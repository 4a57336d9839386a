"""The teacher: run without gradients, in its own precision, for what the active terms need."""

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
    """What the losses compare with; None where no active term asks for it."""

    embedding: Tensor | None = None
    """``[B, T, D]``"""
    attentions: tuple[Tensor, ...] | None = None
    """``[B, H, T, T]`` a mapped layer"""
    features: tuple[Tensor, ...] | None = None
    """``[B, T, D]`` a mapped layer; of the last one after the final norm, as in Transformers"""
    logits: Tensor | None = None
    """``[B, T, V]``"""


@dataclass(frozen=True)
class Needs:
    """What to ask of the teacher; ``layers`` count from 1, one for each mapped student layer."""

    layers: tuple[int, ...]
    embedding: bool = False
    attentions: bool = False
    features: bool = False
    logits: bool = False

    @classmethod
    def of(cls, spad: SpADConfig, alignment: Alignment) -> Needs:
        """What the active terms compare with."""
        return cls(
            tuple(layer for _, layer in alignment.layers),
            *(term in spad.active for term in ("ea", "saa", "sfa", "sta")),
        )

    def __bool__(self) -> bool:
        return self.embedding or self.attentions or self.features or self.logits


class Teacher:
    """A frozen causal model; not a module, so that no checkpoint and no rank shares it."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model: Any = model.eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, needs: Needs) -> TeacherOutput:
        """Outputs for ``[B, T]`` ids. Raises ConfigError for a model that does not give them."""
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
        if needs.attentions and (not maps or any(one is None for one in maps)):
            raise ConfigError(f"{self._name} returns no attention maps: leave out saa.")
        return TeacherOutput(
            hidden[0] if needs.embedding else None,
            tuple(maps[layer - 1] for layer in needs.layers) if needs.attentions else None,
            tuple(hidden[layer] for layer in needs.layers) if needs.features else None,
            out.logits if needs.logits else None,
        )

    def with_head_input(self, input_ids: Tensor, needs: Needs) -> tuple[TeacherOutput, Tensor]:
        """Outputs, and what the head made the logits of, ``[B, T, D]``."""
        seen: list[Tensor] = []
        head = self.model.get_output_embeddings()
        hook = head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        try:
            out = self(input_ids, needs)
            return out, seen[-1].reshape(*input_ids.shape, -1)  # a spiking head has S = 1 in front
        finally:
            hook.remove()

    @torch.no_grad()
    def logits(self, head_input: Tensor) -> Tensor:
        """The head alone, ``[B, T, D]`` to ``[B, T, V]``."""
        with torch.autocast(head_input.device.type, enabled=False):
            logits: Tensor = self.model.get_output_embeddings()(head_input)
        return logits

    @property
    def _name(self) -> str:
        return f"The teacher ({type(self.model).__name__})"

    def digest(self) -> str:
        """sha256 (hex) of the weights, by name, and of the precision they are in."""
        found = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
            found.update(memoryview(raw.numpy()))
        return found.hexdigest()
