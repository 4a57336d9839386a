"""What is packed for the engine, and what is not."""

from __future__ import annotations

import numpy as np
import pytest

from spikeformers.errors import ConfigError, UsageError
from spikeformers.export import pack
from spikeformers.models import (
    WDSpikingformerConfig,
    WDSpikingformerForCausalLM,
    WESpikingformerConfig,
    WESpikingformerForMaskedLM,
    build_model,
    control_of,
)

SHAPE = {"vocab_size": 19, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}


def test_matrices_lie_input_major_and_the_tied_head_once() -> None:
    model = WDSpikingformerForCausalLM(WDSpikingformerConfig(**SHAPE))
    packed = pack(model, None, "fp32")
    up = model.model.layers[0].mlp.up.weight.detach().numpy()
    assert (packed.tensors["layers.0.up"] == up.T).all()
    assert packed.tensors["layers.0.qkv"].shape == (8, 24)
    assert packed.tensors["head"].shape == (8, 19)
    assert "embedding" not in packed.tensors
    assert all(tensor.flags.c_contiguous for tensor in packed.tensors.values())


def test_int8_is_a_quarter_of_the_matrices() -> None:
    model = WDSpikingformerForCausalLM(WDSpikingformerConfig(**SHAPE))
    whole, small = (pack(model, None, weights).tensors for weights in ("fp32", "int8"))
    matrices = [name for name, tensor in small.items() if tensor.dtype == np.int8]
    assert {*matrices} == {"head", *(f"layers.0.{n}" for n in ("qkv", "out", "up", "down"))}
    assert all(small[name].nbytes * 4 == whole[name].nbytes for name in matrices)


def test_what_the_engine_does_not_run_is_refused() -> None:
    config = WDSpikingformerConfig(**SHAPE)
    masked = WESpikingformerForMaskedLM(WESpikingformerConfig(**SHAPE))
    for model in (masked, build_model(control_of(config))):
        with pytest.raises(UsageError, match="the engine runs WD-Spikingformer"):
            pack(model, None)
    with pytest.raises(ConfigError, match="fp32, int8, int4"):
        pack(WDSpikingformerForCausalLM(config), None, "int2")
    many = WDSpikingformerForCausalLM(WDSpikingformerConfig(**SHAPE, levels=65))
    with pytest.raises(ConfigError, match="levels=65"):
        pack(many, None)
