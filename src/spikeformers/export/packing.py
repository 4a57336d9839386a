"""A model and its tokenizer as the engine takes them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from spikeformers.engine import Packed
from spikeformers.errors import ConfigError, UsageError, nearest
from spikeformers.models import MODELS
from spikeformers.models._adapters import refuse_adapters
from spikeformers.models._weights import check_finite

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WEIGHTS = ("fp32", "int8", "int4")


def pack(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, weights: str = "int8"
) -> Packed:
    """Pack a causal model for the engine; ``weights``: fp32, or int8 or int4 per channel.

    Spiking models, and their dense twins (`export.dense`). int4 of a converted or dense model has a
    scale and a minimum for each 32 inputs of an output.

    Raises UsageError for a model that the engine does not run, ConfigError for other weights,
    CheckpointError for a tensor with NaN or infinite values.
    """
    if weights not in WEIGHTS:
        raise ConfigError(
            f"weights={weights!r} is unknown; one of {', '.join(WEIGHTS)}."
            f"{nearest(weights, WEIGHTS)}"
        )
    refuse_adapters(model, "the engine")
    entry = MODELS.get(model.config.model_type)
    if entry is None or not entry.engine or type(model) is not entry.causal_class:
        runs = ", ".join(each.title for each in MODELS.values() if each.engine)
        raise UsageError(
            f"the engine runs {runs}, not {type(model).__name__}: give a causal model of one of "
            "these."
        )
    check_finite(model, type(model).__name__)
    description, tensors = entry.describe(model, weights)
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
        template = getattr(tokenizer, "chat_template", None)
        if isinstance(template, str):
            roles["chat_template"] = template
    values = model.config.to_diff_dict()
    values.pop("auto_map", None)  # of the model folder
    config = {k: v for k, v in values.items() if _plain(v)}
    config |= {"max_position_embeddings": model.config.max_position_embeddings}
    return Packed(asdict(description), tensors, config, roles, weights)


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, float, bool, list, dict))
