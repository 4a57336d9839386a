"""The error that blocks learn by, and a block's neurons, by hand."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def blocks() -> Any:
    """The script, imported as a run imports it."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("blocks")
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_error_weighs_tokens_by_their_size_but_small_ones_by_the_median(blocks: Any) -> None:
    target = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 0.5]])  # sizes 25, 1, 1/4; median 1
    output = target + torch.tensor([[5.0, 0.0], [0.0, 0.5], [0.5, 0.0]])
    assert float(blocks.relative_error(output, target)) == pytest.approx((1 + 0.25 + 0.25) / 2.25)


def test_a_block_with_the_models_activation_is_the_dense_one_but_for_its_neurons(
    blocks: Any,
) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    dense, x = LlamaForCausalLM(config).eval(), torch.randn(1, 9, 32)
    with torch.no_grad():
        expected = dense.model.layers[1].mlp(x)
        block = blocks.block_of(dense, 1, blocks.Row(False, 1.0, 1.0))
        assert (block(x) - expected).norm() < 0.05 * expected.norm()
        rectified = blocks.block_of(dense, 1, blocks.Row(True, 1.0, 1.0))
        mlp = dense.model.layers[1].mlp
        expected = mlp.down_proj(torch.relu(mlp.gate_proj(x)) * mlp.up_proj(x))
        assert (rectified(x) - expected).norm() < 0.05 * expected.norm()
