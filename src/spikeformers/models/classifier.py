"""A pretrained model with a fresh classifier of sentences on top."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from spikeformers.errors import CheckpointError, ConfigError
from spikeformers.models.loading import check_folder
from spikeformers.models.presets import is_masked

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FRESH = ("classifier", "score", "pooler", "pre_classifier")  # parts that fine-tuning begins


def load_classifier(
    folder: str | Path, num_labels: int, seed: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model of ``folder`` with a new head of ``num_labels``, drawn by ``seed``; one regresses.

    Raises CheckpointError for what cannot be read, ConfigError for a model without such a head.
    """
    path = Path(folder)
    check_folder(path)
    config = AutoConfig.from_pretrained(path)
    architecture = (config.architectures or [""])[0]
    if not (is_masked(config) or "MaskedLM" in architecture):
        raise ConfigError(
            f"{path} ({architecture or config.model_type}) does not predict masked tokens; "
            "sentences are classified by an encoder, such as a WE-Spikingformer, its dense twin "
            "or BERT."
        )
    config.num_labels = num_labels
    config.problem_type = "regression" if num_labels == 1 else "single_label_classification"
    torch.manual_seed(seed)
    try:
        model, info = AutoModelForSequenceClassification.from_pretrained(
            path, config=config, output_loading_info=True, use_safetensors=True
        )
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{path} cannot be loaded as a classifier: {error}") from error
    missing = [key for key in info["missing_keys"] if not any(part in key for part in FRESH)]
    if missing:
        raise CheckpointError(
            f"{path}: {len(missing)} weights are missing (first: {min(missing)}), so the file "
            "does not belong to its config."
        )
    if tokenizer.pad_token_id is None:
        raise ConfigError(f"{path}: its tokenizer has no pad token to fill a batch with.")
    tokenizer.padding_side = "right"
    checked: Any = model
    return checked, tokenizer
