"""The closed form against the tracer, on small models of the shapes that the papers compare."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, OPTConfig, Qwen2Config

from spikeformers.energy import energy_of
from spikeformers.energy.counting.sizes import TransformerShape
from spikeformers.errors import ConfigError

COMMON = {"vocab_size": 50, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
QWEN = Qwen2Config(**COMMON, num_key_value_heads=2, intermediate_size=40)
OPT = OPTConfig(**COMMON, ffn_dim=96, word_embed_proj_dim=24, max_position_embeddings=32)
GPT2 = GPT2Config(vocab_size=50, n_embd=24, n_layer=2, n_head=4, n_positions=32)


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (QWEN, TransformerShape(24, 2, 40, 50, key_width=12, gated=True)),
        (OPT, TransformerShape(24, 2, 96, 50)),
        (GPT2, TransformerShape(24, 2, 96, 50)),
    ],
    ids=["qwen2", "opt", "gpt2"],
)
def test_the_tracer_counts_the_same(config, shape):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    report = energy_of(model, [torch.randint(0, 50, (2, 7))])
    expected = shape.macs(7)
    counted = {name: round(share.macs * 7) for name, share in report.by_component.items()}
    assert counted["attention projections"] == expected.projections
    assert counted["attention scores and values"] == expected.attention
    assert counted["mlp"] == expected.mlp
    assert counted["head"] == expected.head
    assert round(report.macs_per_token * 7) == expected.total


def test_by_hand():
    # width 3, keys 1, hidden 5, 2 layers, vocabulary 7, 4 tokens
    macs = TransformerShape(3, 2, 5, 7, key_width=1, gated=True).macs(4)
    assert macs.projections == 4 * 2 * (9 + 9 + 3 + 3)
    assert macs.attention == (1 + 2 + 3 + 4) * 2 * (3 + 3)
    assert macs.mlp == 4 * 2 * 3 * 15
    assert macs.head == 4 * 21
    assert macs.total == macs.blocks + 84
    assert TransformerShape(3, 2, 5, 7).macs(4, "square").attention == 16 * 2 * 6
    assert TransformerShape(3, 2, 5, 7).macs(4, "none").attention == 0
    with pytest.raises(ConfigError, match="causal, square, none"):
        TransformerShape(3, 2, 5, 7).macs(4, "all")
