"""What is packed for the engine, and what is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import GPT2Config
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm

from spikeformers.errors import ConfigError, UsageError
from spikeformers.export import pack
from spikeformers.export.packer import Packer
from spikeformers.models import (
    NeurTransformerConfig,
    NeurTransformerForCausalLM,
    WDSpikingformerConfig,
    WDSpikingformerForCausalLM,
    WESpikingformerConfig,
    WESpikingformerForMaskedLM,
    build_model,
    control_of,
)

SHAPE = {"vocab_size": 19, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}


class Scaled(nn.RMSNorm):
    """A root-mean-square norm under another name."""

    def __init__(self, size: int) -> None:
        super().__init__(size, eps=1e-3)


class CentredRMSNorm(nn.RMSNorm):
    """Its name says less than it does."""

    def __init__(self, size: int) -> None:
        super().__init__(size, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(-1, keepdim=True))


def test_matrices_lie_input_major_and_the_tied_head_once() -> None:
    model = WDSpikingformerForCausalLM(WDSpikingformerConfig(**SHAPE))
    packed = pack(model, None, "fp32")
    up = model.model.layers[0].mlp.up.weight.detach().numpy()
    assert (packed.tensors["layers.0.up"] == up.T).all()
    assert packed.tensors["layers.0.qkv"].shape == (8, 24)
    assert packed.tensors["head"].shape == (8, 19)
    assert "embedding" not in packed.tensors
    assert all(tensor.flags.c_contiguous for tensor in packed.tensors.values())


def test_a_norm_is_packed_with_its_offset_and_never_left_out() -> None:
    packer, norm = Packer("fp32"), Gemma3RMSNorm(3, eps=1e-3)
    norm.weight.data = torch.tensor([0.5, -0.25, 2.0], dtype=torch.bfloat16)
    spec = packer.norm("head", norm, 1.0)
    assert (spec.kind, spec.weight, spec.eps) == ("rms", "head.weight", 1e-3)
    assert packer.tensors["head.weight"].tolist() == [1.5, 0.75, 3.0]
    assert packer.norm("no", nn.Identity()).kind == "none"
    own = Scaled(3)
    own.weight.data = torch.tensor([0.5, -0.25, 2.0])
    assert packer.norm("own", own).kind == "rms"
    for other in (nn.BatchNorm1d(3), nn.Linear(3, 3), CentredRMSNorm(3)):
        with pytest.raises(ConfigError, match=f"does not know the norm {type(other).__name__}"):
            packer.norm("other", other)


def test_int8_is_a_quarter_of_the_matrices() -> None:
    model = WDSpikingformerForCausalLM(WDSpikingformerConfig(**SHAPE))
    whole, small = (pack(model, None, weights).tensors for weights in ("fp32", "int8"))
    matrices = [name for name, tensor in small.items() if tensor.dtype == np.int8]
    assert {*matrices} == {"head", *(f"layers.0.{n}" for n in ("qkv", "out", "up", "down"))}
    assert all(small[name].nbytes * 4 == whole[name].nbytes for name in matrices)


def test_int4_is_half_of_int8_but_for_head_and_embeddings() -> None:
    shape = SHAPE | {"vocab_size": 64, "hidden_size": 64}
    model = WDSpikingformerForCausalLM(WDSpikingformerConfig(**shape, tie_word_embeddings=False))
    whole, small = (pack(model, None, weights).tensors for weights in ("int8", "int4"))
    halved = {name for name, tensor in small.items() if tensor.dtype == np.uint8}
    assert halved == {f"layers.0.{n}" for n in ("qkv", "out", "up", "down")}
    assert all(small[name].nbytes * 2 == whole[name].nbytes for name in halved)
    assert small["head"].dtype == small["embedding"].dtype == np.int8


def test_what_the_engine_does_not_run_is_refused() -> None:
    config = WDSpikingformerConfig(**SHAPE)
    masked = WESpikingformerForMaskedLM(WESpikingformerConfig(**SHAPE))
    for model in (masked, build_model(control_of(masked.config))):
        with pytest.raises(UsageError, match="the engine runs WD-Spikingformer"):
            pack(model, None)
    with pytest.raises(ConfigError, match="fp32, int8, int4"):
        pack(WDSpikingformerForCausalLM(config), None, "int2")
    many = WDSpikingformerForCausalLM(WDSpikingformerConfig(**SHAPE, levels=65))
    with pytest.raises(ConfigError, match="levels=65"):
        pack(many, None)


@pytest.mark.parametrize("converted", [False, True])
def test_an_adapter_is_merged_before_packing(converted: bool) -> None:
    """The weights alone would be packed, without what the adapter adds."""
    model = WDSpikingformerForCausalLM(WDSpikingformerConfig(**SHAPE))
    if converted:
        source = GPT2Config(**SHAPE, bos_token_id=None, eos_token_id=None).to_dict()
        model = NeurTransformerForCausalLM(NeurTransformerConfig(source=source, steps=4))
    lora = LoraConfig(r=2, target_modules=["up"], init_lora_weights=False)
    adapted = get_peft_model(model, lora)
    for place in (adapted, model):
        with pytest.raises(
            ConfigError, match=r"1 maps have an adapter .*\.mlp\.up.*merge_and_unload"
        ):
            pack(place, None, "fp32")
    merged = adapted.merge_and_unload()
    up = merged.get_submodule(next(n for n, _ in merged.named_modules() if n.endswith("mlp.up")))
    assert (pack(merged, None, "fp32").tensors["layers.0.up"] == up.weight.detach().numpy().T).all()


def test_the_map_of_classes_belongs_to_the_folder(tmp_path: Path) -> None:
    model = WDSpikingformerForCausalLM(WDSpikingformerConfig(**SHAPE))
    model.save_pretrained(tmp_path)
    assert "auto_map" not in pack(model, None, "fp32").config
