"""A pretrained model with a fresh classifier of sentences on top."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForSequenceClassification

from spikeformers.data.tokenizers import check_vocabulary, load_tokenizer
from spikeformers.errors import CheckpointError, ConfigError
from spikeformers.foreign import foreign
from spikeformers.models._weights import check_finite, check_shapes
from spikeformers.models.loading import SAFELY, architecture_of, check_folder, read_config, rows_of
from spikeformers.models.registry import is_masked

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FRESH = ("classifier", "score", "pooler", "pre_classifier")  # parts that fine-tuning begins


def load_classifier(
    folder: str | Path, labels: Sequence[str], seed: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model of ``folder`` with a new head, drawn by ``seed``, of one output a label.

    ``labels`` are names of classes, in the order of their numbers; without any it regresses.
    Raises CheckpointError for what cannot be read, ConfigError for a model without such a head.
    """
    path = Path(folder)
    check_folder(path)
    config = read_config(path)
    architecture = architecture_of(config)
    if not (is_masked(config) or "MaskedLM" in architecture):
        raise ConfigError(
            f"{path} ({architecture or config.model_type}) does not predict masked tokens; "
            "sentences are classified by an encoder, such as a WE-Spikingformer, its dense twin "
            "or BERT."
        )
    config.num_labels = max(1, len(labels))
    if labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: number for number, label in enumerate(labels)}
    config.problem_type = "single_label_classification" if labels else "regression"
    torch.manual_seed(seed)
    check_shapes(path, AutoModelForSequenceClassification, config)
    with foreign(f"{path} cannot be loaded as a classifier"):
        model, info = AutoModelForSequenceClassification.from_pretrained(
            path, config=config, output_loading_info=True, use_safetensors=True, **SAFELY
        )
    tokenizer = load_tokenizer(path)
    check_vocabulary(tokenizer, rows_of(model), path)
    missing = [key for key in info["missing_keys"] if not any(part in key for part in FRESH)]
    if missing:
        raise CheckpointError(
            f"{path}: {len(missing)} weights are missing (first: {min(missing)}), so the file "
            "does not belong to its config."
        )
    check_finite(model, path)
    if tokenizer.pad_token_id is None:
        raise ConfigError(f"{path}: its tokenizer has no pad token to fill a batch with.")
    tokenizer.padding_side = "right"
    checked: Any = model
    return checked, tokenizer
