"""Adapters, such as peft's, that replace a linear map of a model.

peft puts a module in the place of each map that it adapts and keeps the map as its ``base_layer``.
Every linear map of these models reads one operand and gives one result, so an adapter beside it,
merged or not, is right, but for three cases, which are refused by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from spikeformers.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

UNTIE = (
    "load the model with tie_word_embeddings=False and copy, "
    "model.get_output_embeddings().weight.data = model.get_input_embeddings().weight.data.clone()"
)


def is_adapter(module: nn.Module | None) -> bool:
    """Whether ``module`` adapts a map that stood in its place."""
    return isinstance(getattr(module, "base_layer", None), nn.Module)


def refuse_adapters(model: nn.Module, where: str) -> None:
    """ConfigError if a map of ``model`` has an adapter, which ``where`` would leave out."""
    adapted = [name for name, module in model.named_modules() if is_adapter(module)]
    if adapted:
        raise ConfigError(
            f"{len(adapted)} maps have an adapter that is not merged (first: {adapted[0]}), and "
            f"{where} reads the weights alone. Merge it first: model = model.merge_and_unload()."
        )


def refuse_tied_adapter(model: PreTrainedModel) -> None:
    """ConfigError for an adapter of a head or embedding that are one weight.

    It adapts one of the two; merged into the weight it would change both.
    """
    if not model.config.tie_word_embeddings:
        return
    for part, module in (
        ("head", model.get_output_embeddings()),
        ("embedding", model.get_input_embeddings()),
    ):
        if is_adapter(module):
            name = next(name for name, adapter in model.named_modules() if adapter is module)
            raise ConfigError(
                f"{name}, the {part}, has an adapter, and head and embedding are one weight "
                "(tie_word_embeddings): merging it would change both. Adapt other modules, or give "
                f"the head a weight of its own: {UNTIE}."
            )


def refuse_adapter_of_spiking_head(head: nn.Module | None) -> None:
    """ConfigError for an adapter of a head that fires: it would read reals, the head spikes."""
    if head is not None and is_adapter(head) and hasattr(head.base_layer, "fire"):
        raise ConfigError(
            "the head has an adapter and neurons at its input, which the adapter does not read. "
            "Adapt other modules, or adapt the source model and convert it again."
        )
