"""A model and its tokenizer as the engine takes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from spikeformers.engine import Description, Packed
from spikeformers.errors import ConfigError, UsageError, nearest
from spikeformers.export import bispikclm, neurtransformer, spikingformer
from spikeformers.models import (
    BiSpikCLMForCausalLM,
    NeurTransformerForCausalLM,
    WDSpikingformerForCausalLM,
)
from spikeformers.models._adapters import refuse_adapters

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WEIGHTS = ("fp32", "int8", "int4")
DESCRIBE: dict[type[Any], Callable[[Any, str], tuple[Description, dict[str, NDArray[Any]]]]] = {
    WDSpikingformerForCausalLM: spikingformer.describe,
    BiSpikCLMForCausalLM: bispikclm.describe,
    NeurTransformerForCausalLM: neurtransformer.describe,
}
"""What writes the description of each model that the engine runs."""


def pack(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, weights: str = "int8"
) -> Packed:
    """Pack a causal spiking model for the engine; ``weights``: fp32, or int8 or int4 per channel.

    Raises UsageError for a model that the engine does not run, ConfigError for other weights.
    """
    if weights not in WEIGHTS:
        raise ConfigError(
            f"weights={weights!r} is unknown; one of {', '.join(WEIGHTS)}."
            f"{nearest(weights, WEIGHTS)}"
        )
    refuse_adapters(model, "the engine")
    if type(model) not in DESCRIBE:
        raise UsageError(
            f"the engine runs WD-Spikingformer, BiSpikCLM and converted models, not "
            f"{type(model).__name__}: give a causal spiking model of one of these."
        )
    description, tensors = DESCRIBE[type(model)](model, weights)
    roles: dict[str, Any] = {"rules": None, "bos": None, "eos": None}
    if tokenizer is not None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise UsageError("the model's tokenizer has no fast version, which the engine needs.")
        roles = {
            "rules": backend.to_str(),
            "bos": tokenizer.bos_token_id,
            "eos": tokenizer.eos_token_id,
        }
    values = model.config.to_diff_dict()
    values.pop("auto_map", None)  # of the model folder
    config = {k: v for k, v in values.items() if _plain(v)}
    config |= {"max_position_embeddings": model.config.max_position_embeddings}
    return Packed(asdict(description), tensors, config, roles, weights)


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, float, bool, list, dict))
