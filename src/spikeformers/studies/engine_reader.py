"""The engine as a reader for `spikeformers.evaluation.zeroshot`, and its tokenizer."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from spikeformers.data.tokenizers import tokenizer_digest
from spikeformers.engine import Engine, Packed
from spikeformers.engine.tokens import TOKENIZER
from spikeformers.errors import CheckpointError
from spikeformers.evaluation.zeroshot.reader import Reader
from spikeformers.foreign import check_object, foreign, without_panic_messages


class EngineReader(Reader):
    """An engine that returns the logits at the end of texts."""

    kind = "engine"

    def __init__(self, engine: Engine) -> None:
        self.engine, self.positions = engine, engine.context

    def tails(self, texts: Sequence[Sequence[int]], counts: Sequence[int]) -> list[Tensor]:
        return [torch.from_numpy(logits) for logits in self.engine.tails(texts, counts)]

    def record(self, name: str, tokenizer: Any) -> dict[str, Any]:
        """The model's entry in results, as `model_record`; the digest covers the packed tensors."""
        packed = self.engine.packed
        return {
            "name": name,
            "class": "Engine",
            "model_type": packed.config.get("model_type"),
            "parameters": _parameters(packed),
            "dtype": packed.weights,
            "weights_sha256": _digest(packed),
            "tokenizer_sha256": tokenizer_digest(tokenizer),
            "config": dict(packed.config),
        }


def _parameters(packed: Packed) -> int:
    """Numbers of the model: no scales and minima, and two in each byte of four bits."""
    tensors = packed.tensors
    beside = {f"{name}.{end}" for name in tensors for end in ("scale", "minimum")}
    return sum(
        len(tensor) * tensors[f"{name}.scale"].shape[-1]
        if tensor.dtype == np.uint8  # rows are padded to whole blocks
        else tensor.size
        for name, tensor in tensors.items()
        if name not in beside
    )


def _digest(packed: Packed) -> str:
    """sha256 (hex) over names, shapes, types and bytes of the packed tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(packed.tensors.items()):
        digest.update(f"{name} {tensor.shape} {tensor.dtype}\0".encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()


def tokenizer_of(engine: Engine) -> PreTrainedTokenizerFast:
    """The tokenizer in the engine's file; CheckpointError if it has none."""
    packed = engine.packed.tokenizer
    if not packed.get("rules"):
        raise CheckpointError("this engine file was exported without a tokenizer.")
    check_object(packed, TOKENIZER, "the engine file's tokenizer")
    with foreign("the engine file's tokenizer cannot be read"), without_panic_messages():
        rules = Tokenizer.from_str(packed["rules"])
    roles = {
        f"{role}_token": rules.id_to_token(packed[role])
        for role in ("bos", "eos")
        if packed[role] is not None
    }
    return PreTrainedTokenizerFast(tokenizer_object=rules, **roles)
