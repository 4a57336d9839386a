"""Tiny random dense models of every architecture that converts, and text for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

SIZES: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}
GROUPED = SIZES | {"num_key_value_heads": 2, "intermediate_size": 24}
CONFIGS: dict[str, Any] = {
    "gpt2": lambda: GPT2Config(**SIZES, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0),
    "gpt_neox": lambda: GPTNeoXConfig(
        **SIZES,
        intermediate_size=24,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.5,
        },
    ),
    "llama": lambda: LlamaConfig(**GROUPED, tie_word_embeddings=True),
    "qwen2": lambda: Qwen2Config(**GROUPED),
    "mistral": lambda: MistralConfig(**GROUPED, sliding_window=4),
    "qwen3": lambda: Qwen3Config(**GROUPED, head_dim=8),
    "gemma3_text": lambda: Gemma3TextConfig(
        **GROUPED,
        head_dim=8,
        sliding_window=4,
        layer_types=["sliding_attention", "full_attention"],
        query_pre_attn_scalar=8,
    ),
}
ARCHITECTURES = tuple(CONFIGS)


@pytest.fixture
def dense() -> Callable[..., PreTrainedModel]:
    """``dense("llama")``: the same random weights at each call, biases not zero."""

    def make(kind: str, **changes: Any) -> PreTrainedModel:
        torch.manual_seed(7)
        config = CONFIGS[kind]()
        for key, value in changes.items():
            setattr(config, key, value)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "bias" in name:
                    parameter.normal_(0, 0.2)
                elif parameter.dim() == 2 and "embed" not in name and "wte" not in name:
                    parameter.mul_(8)
        return model.eval()

    return make


@pytest.fixture
def windows() -> torch.Tensor:
    """Four windows of twelve tokens."""
    return torch.randint(0, 60, (4, 12), generator=torch.Generator().manual_seed(2))
