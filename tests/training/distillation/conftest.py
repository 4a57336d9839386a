"""Teachers of milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch


@pytest.fixture(scope="session")
def dense() -> Callable[..., Any]:
    """``dense(tokenizer, n_layer=3)``: a GPT-2 that shows its attention maps, without dropout."""
    from transformers import GPT2Config, GPT2LMHeadModel

    def make(tokenizer: Any, **changes: Any) -> Any:
        torch.manual_seed(3)
        sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.2} | changes
        config = GPT2Config(
            vocab_size=len(tokenizer), n_positions=32, **sizes, attn_implementation="eager",
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
            bos_token_id=tokenizer.eos_token_id, eos_token_id=tokenizer.eos_token_id,
        )  # fmt: skip
        return GPT2LMHeadModel(config).eval()

    return make
