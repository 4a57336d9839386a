"""BiSpikCLM in the engine against PyTorch: spikes, edges, logits, text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from spikeformers.engine import Engine
from spikeformers.export import pack
from spikeformers.models import BiSpikCLMConfig, BiSpikCLMForCausalLM
from spikeformers.neurons import observe

Ids = Callable[..., list[int]]

VARIANTS: dict[str, dict[str, Any]] = {
    "T=4": {},
    "T=2": {"steps": 2},
    "T=1": {"steps": 1},
    "or": {"residual": "or"},
    "or-T=2": {"residual": "or", "steps": 2, "position": "learned"},
    "learned-positions": {"position": "learned"},
    "both-positions": {"position": "both"},
    "no-positions": {"position": "none"},
    "short-bias": {"max_position_embeddings": 7},
    "learned-thresholds": {
        "learn_threshold": True,
        "learn_attention_threshold": True,
        "learn_attention_scale": True,
    },
    "rare-edges": {"attention_threshold": 2.5, "attention_scale": 0.7},
    "spiking-head": {"spiking_head": True},
    "rms": {"norm": "rms", "threshold": 0.4},
    "no-norm": {"norm": "none", "threshold": 0.5},
    "untied": {"tie_word_embeddings": False, "bias": False},
    "odd-widths": {"hidden_size": 42, "num_attention_heads": 3, "intermediate_size": 51},
    "wide-heads": {"hidden_size": 140},
}


def make(seed: int = 0, **overrides: Any) -> BiSpikCLMForCausalLM:
    torch.manual_seed(seed)
    shape = {
        "vocab_size": 61,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 72,
        "max_position_embeddings": 96,
    }
    model = BiSpikCLMForCausalLM(BiSpikCLMConfig(**(shape | overrides)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter += (1.0 if "embed" in name else 0.3) * torch.randn_like(parameter)
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS)
def test_spikes_edges_and_logits_are_pytorchs(variant: str, ids: Ids) -> None:
    model, tokens = make(**VARIANTS[variant]), ids(1, 90)
    engine = Engine(pack(model, None, "fp32"), threads=1)
    computed = engine.feed_all(engine.sequence(), tokens)
    model.double()  # exact next to float's rounding
    seen: dict[str, torch.Tensor] = {}
    with observe(model, lambda name, _, spikes: seen.__setitem__(name, spikes)):
        logits = model(torch.tensor([tokens])).logits[0].numpy()
    names = [
        step["out"] for step in engine.packed.description["operations"] if step["op"] == "fire"
    ]
    order = [name for name in seen if "core" not in name and "head_neuron" not in name]
    for name, key in zip(names, order, strict=True):
        assert (engine.values(name) == seen[key].flatten(0, -2).numpy()).all(), (name, key)
        assert seen[key].any()
    assert np.abs(computed - logits).max() < 1e-4
    assert logits.std() > 0.1
    edges = [spikes for name, spikes in seen.items() if "core" in name]
    assert engine.counters()["edges"] == sum(int(layer.sum()) for layer in edges) > 0


@pytest.mark.parametrize("variant", ["T=4", "or-T=2", "learned-thresholds", "wide-heads"])
@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_one_token_at_a_time_gives_the_bits_of_the_prompt(
    variant: str, weights: str, ids: Ids, assert_same_bits: Any
) -> None:
    tokens = ids(2, 150)
    changes = VARIANTS[variant] | {"max_position_embeddings": 256}
    packed = pack(make(**changes), None, weights)
    assert_same_bits(packed, tokens)


@torch.no_grad()
@pytest.mark.parametrize("steps", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_greedy_text_of_512_tokens_is_pytorchs(steps: int, ids: Ids) -> None:
    model = make(7, max_position_embeddings=600, steps=steps)
    prompt = ids(4, 8)
    engine = Engine(pack(model, None, "fp32"), threads=1)
    written = model.generate(torch.tensor([prompt]), max_new_tokens=512, do_sample=False)
    assert list(engine.generate(prompt, 512)) == written[0, 8:].tolist()


@torch.no_grad()
def test_pages_without_an_edge_are_not_read(ids: Ids) -> None:
    """A bias that falls with distance rules far pages out, and nothing changes."""
    model, tokens = make(9, relative_slope=2.0), ids(6, 700)
    engine = Engine(pack(model, None, "fp32"), threads=2)
    computed = engine.feed_all(engine.sequence(), tokens)
    logits = model.double()(torch.tensor([tokens])).logits[0].numpy()
    assert np.abs(computed - logits).max() < 1e-4
    assert engine.counters()["pages_skipped"] > 1000
