"""Random models of every kind, and the engine that was packed from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Gemma3TextConfig, LlamaConfig

from spikeformers.engine import Engine
from spikeformers.kernels import native
from spikeformers.models import (
    BiSpikCLMConfig,
    BiSpikCLMForCausalLM,
    NeurTransformerConfig,
    NeurTransformerForCausalLM,
    WDSpikingformerConfig,
    WDSpikingformerForCausalLM,
)

pytest.importorskip("spikeformers.kernels._native")

Make = Callable[..., Any]


@pytest.fixture(scope="session")
def make_model() -> Make:
    """``make_model(seed, **config)``: a small model whose every parameter is random."""

    def make(seed: int = 0, **overrides: Any) -> WDSpikingformerForCausalLM:
        torch.manual_seed(seed)
        shape = {
            "vocab_size": 61,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 72,
            "max_position_embeddings": 96,
        }
        model = WDSpikingformerForCausalLM(WDSpikingformerConfig(**(shape | overrides)))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if not name.endswith("amplitude"):
                    spread = 1.0 if "embed" in name else 0.3
                    parameter += spread * torch.randn_like(parameter)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def ids() -> Callable[[int, int], list[int]]:
    """``ids(seed, n)``: n tokens of that model."""

    def draw(seed: int, n: int, vocabulary: int = 61) -> list[int]:
        ids: list[int] = np.random.default_rng(seed).integers(0, vocabulary, n).tolist()
        return ids

    return draw


@pytest.fixture(scope="session")
def make_other() -> Make:
    """``make_other("bispikclm")``, ``make_other("converted-ssa")``: the same for other kinds."""

    def make(kind: str) -> Any:
        torch.manual_seed(3)
        shape = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 1}
        model: Any
        if kind == "bispikclm":
            config = BiSpikCLMConfig(
                **shape, num_attention_heads=2, max_position_embeddings=96, residual="or", steps=2
            )
            model = BiSpikCLMForCausalLM(config)
        else:
            more = {
                "num_key_value_heads": 1,
                "intermediate_size": 48,
                "max_position_embeddings": 96,
            }
            source: Any = LlamaConfig(**shape, num_attention_heads=2, **more)
            attention = kind.removeprefix("converted-")
            choices: dict[str, Any] = {"attention": attention, "wta": "top_k", "steps": 4}
            if attention in ("token", "gemma3"):
                maps = {"spiking_maps": ["ffn", "qkv", "out", "head"]}
                choices = {"attention": "kept", "threshold": "token", "steps": 6, "code": "phase"}
                choices |= maps
            if attention == "gemma3":
                more |= {"head_dim": 8, "sliding_window": 3, "final_logit_softcapping": 5.0}
                source = Gemma3TextConfig(
                    **shape, num_attention_heads=2, layer_types=["sliding_attention"], **more
                )
            described = source.to_dict() | {"model_type": source.model_type}
            model = NeurTransformerForCausalLM(NeurTransformerConfig(source=described, **choices))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "threshold" not in name and "dead_zone" not in name:
                    parameter += 0.3 * torch.randn_like(parameter)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def assert_same_bits(ids: Callable[..., list[int]]) -> Callable[[Any, list[int]], None]:
    """One token at a time gives the bits of the whole prompt.

    And so does every path, every number of threads, and a batch of sequences.
    """

    def check(packed: Any, tokens: list[int]) -> None:
        whole = Engine(packed, threads=1)
        expected = whole.feed_all(whole.sequence(), tokens)
        for name, runs, _ in native().paths():
            if runs:
                engine = Engine(packed, threads=2, kernels=name)
                assert (engine.feed_all(engine.sequence(), tokens) == expected).all(), name
        engine = Engine(packed, threads=2)
        first, second = engine.sequence(), engine.sequence()
        engine.feed(second, ids(3, 5))
        for place, token in enumerate(tokens):
            logits = engine.step([first, second], [token, 7])
            assert (logits[0] == expected[place]).all()
        assert (first.tokens, second.tokens) == (len(tokens), len(tokens) + 5)

    return check
