"""Tiny models of every kind, with byte tokenizers."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_MASKED_LM_MAPPING

from spikeformers.data import make_tokenizer
from spikeformers.models import build_config, build_model, control_of

DOCUMENTS = [
    "The neuron fires, and then it rests; its neighbours wait.",
    "Äpfel und Öl: two words of German.",
    "one",
]
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 16,
}


@pytest.fixture
def documents() -> list[str]:
    return list(DOCUMENTS)


@pytest.fixture
def setup() -> Callable[..., tuple[Any, Any]]:
    """``setup("wd", neuron="lif")`` gives (model, tokenizer); a twin with ``twin="learned"``."""

    def make(kind: str = "wd", twin: Any = None, **overrides: Any) -> tuple[Any, Any]:
        torch.manual_seed(11)
        tokenizer = make_tokenizer("byte", masked=kind == "we")
        config: Any = build_config(f"{kind}-spikingformer-tiny", len(tokenizer), SIZES | overrides)
        model = build_model(control_of(config, twin) if twin else config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(3)  # far from uniform, so that mistakes show
        return model.eval(), tokenizer

    return make


class Table(nn.Module):
    """A model whose logits at a token are a row of ``table`` ``[V, V]``: a bigram model."""

    def __init__(self, table: Tensor, positions: int = 8) -> None:
        super().__init__()
        self.head = nn.Linear(*table.shape, bias=False)
        self.head.weight = nn.Parameter(table.T.contiguous())
        self.config = SimpleNamespace(max_position_embeddings=positions)

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    def get_output_embeddings(self) -> nn.Linear:
        return self.head

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> Any:
        tokens = nn.functional.one_hot(input_ids, self.head.in_features)
        return SimpleNamespace(logits=self.head(tokens.to(self.head.weight.dtype)))


class MaskedTableConfig(SimpleNamespace):
    """The config of a model that predicts masked tokens."""


class TableForMaskedLM(Table):
    """The same, asked for masked tokens."""

    def __init__(self, table: Tensor, positions: int = 8) -> None:
        super().__init__(table, positions)
        self.config = MaskedTableConfig(max_position_embeddings=positions)


MODEL_FOR_MASKED_LM_MAPPING.register(MaskedTableConfig, TableForMaskedLM)


@pytest.fixture
def table() -> type[Table]:
    return Table


@pytest.fixture
def masked_table() -> type[TableForMaskedLM]:
    return TableForMaskedLM
