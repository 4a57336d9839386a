"""The converted model as a model: cache, padding, unrolling, gradients, what the tracer sees."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedModel,
)

from spikeformers.energy import Product, energy_of, trace
from spikeformers.errors import ConfigError
from spikeformers.models import NeurTransformerConfig, NeurTransformerForCausalLM
from spikeformers.models.neurtransformer import neurtransformer_config

SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}
SOURCES: dict[str, Any] = {
    "gpt2": GPT2Config(**SIZES, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0),
    "gpt_neox": GPTNeoXConfig(**SIZES, intermediate_size=24),
    "llama": LlamaConfig(**SIZES, num_key_value_heads=2, intermediate_size=24),
}
VARIANTS: dict[str, dict[str, Any]] = {
    "signed-if, ssa": {},
    "qcfs, hard": {"ffn": "qcfs", "attention": "cwssa"},
    "ni-lif, top_k": {"ffn": "ni-lif", "attention": "cwssa", "wta": "top_k", "winners": 2},
    "phase, hard": {"code": "phase", "attention": "cwssa"},
    "phase, grades": {"code": "phase", "attention": "power-of-two", "weight_digits": 3},
    "kept, if": {"ffn": "kept", "attention_neuron": "if"},
    "signed-if, kept": {"attention": "kept"},
}
Make = Callable[..., PreTrainedModel]


@pytest.fixture
def make() -> Make:
    """``make("llama", steps=4)``: the same random weights at each call."""

    def build(kind: str = "gpt2", **choices: Any) -> PreTrainedModel:
        torch.manual_seed(5)
        config = NeurTransformerConfig(
            source=SOURCES[kind].to_dict(), **({"steps": 4, "attention": "ssa"} | choices)
        )
        model = NeurTransformerForCausalLM(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "threshold" in name:
                    parameter.uniform_(0.8, 1.2)
                elif parameter.dim() == 2 and "embed" not in name:
                    parameter.normal_(0, 0.3)
        return model.eval()

    return build


def in_blocks(model: PreTrainedModel, ids: torch.Tensor) -> list[Product]:
    """Every matrix product of the blocks in one forward pass."""
    products = trace(model, ids).products.values()
    return [product for product in products if product.layer is not None]


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("kind", list(SOURCES))
@pytest.mark.parametrize("variant", list(VARIANTS))
def test_cached_equals_whole(make: Make, ids: torch.Tensor, kind: str, variant: str) -> None:
    model: Any = make(kind, **VARIANTS[variant])
    whole = model(ids).logits
    first = model(ids[:, :5], use_cache=True)
    logits, cache = [first.logits], first.past_key_values
    for t in range(5, 9):
        out = model(ids[:, t : t + 1], past_key_values=cache, use_cache=True)
        logits.append(out.logits)
        cache = out.past_key_values
    torch.testing.assert_close(torch.cat(logits, 1), whole, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("variant", list(VARIANTS))
def test_unrolled_steps_give_the_same(make: Make, ids: torch.Tensor, variant: str) -> None:
    """T steps of spikes and the counts handed on: same logits, same events, same energy."""
    at_once = make("llama", **VARIANTS[variant])
    stepwise = make("llama", **VARIANTS[variant], unrolled=True)
    torch.testing.assert_close(stepwise(ids).logits, at_once(ids).logits, atol=1e-4, rtol=1e-4)
    first, second = energy_of(at_once, [ids]), energy_of(stepwise, [ids])
    assert first.sop_per_token == pytest.approx(second.sop_per_token, rel=1e-6)
    assert first.picojoules_per_token == pytest.approx(second.picojoules_per_token, rel=1e-6)
    neurons = [report.by_component["neurons"].elementwise for report in (first, second)]
    assert neurons[0] == pytest.approx(neurons[1], rel=1e-6)


@torch.no_grad()
def test_a_pipeline_is_another_computation(make: Make, ids: torch.Tensor) -> None:
    waiting = make("gpt2", ffn="qcfs", attention="kept")
    pipelined = make("gpt2", ffn="qcfs", attention="kept", schedule="pipelined")
    assert waiting.state_dict().keys() == pipelined.state_dict().keys()
    difference = (waiting(ids).logits - pipelined(ids).logits).abs().max()
    assert 1e-3 < float(difference) < 100


@torch.no_grad()
@pytest.mark.parametrize("kind", list(SOURCES))
@pytest.mark.parametrize("variant", ["signed-if, ssa", "qcfs, hard", "phase, hard"])
def test_every_product_of_the_blocks_has_spikes(
    make: Make, ids: torch.Tensor, kind: str, variant: str
) -> None:
    products = in_blocks(make(kind, **VARIANTS[variant]), ids)
    names = {product.name.rsplit(".", 1)[-1] for product in products}
    assert {"query", "key", "value", "out", "up", "down", "scores", "values"} <= names
    assert [product.name for product in products if not product.spiking] == []


@torch.no_grad()
def test_a_digit_costs_one_accumulate(make: Make, ids: torch.Tensor) -> None:
    model = make("gpt2", code="phase", attention="kept", steps=4)
    seen: list[torch.Tensor] = []
    neuron: Any = model.model.transformer.h[0].mlp.fire_in
    handle = neuron.register_forward_hook(lambda _, __, out: seen.append(out))
    products = {product.name: product for product in in_blocks(model, ids)}
    handle.remove()
    ones = sum(bin(int(n)).count("1") for n in seen[0].abs().flatten().tolist())
    assert products["model.transformer.h.0.mlp.up"].sop == ones * 64


@torch.no_grad()
@pytest.mark.parametrize("attention", ["ssa", "cwssa", "power-of-two"])
def test_later_tokens_and_padding_change_nothing(
    make: Make, ids: torch.Tensor, attention: str
) -> None:
    model = make("llama", attention=attention)
    changed = ids.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 50
    torch.testing.assert_close(model(ids).logits[:, :-1], model(changed).logits[:, :-1])
    padded = torch.cat((torch.zeros(2, 3, dtype=torch.long), ids), 1)
    mask = torch.cat((torch.zeros(2, 3, dtype=torch.long), torch.ones_like(ids)), 1)
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    out = model(padded, attention_mask=mask, position_ids=positions).logits[:, 3:]
    torch.testing.assert_close(out, model(ids).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("attention", ["ssa", "cwssa", "power-of-two"])
def test_gradients_reach_every_trainable_weight_of_attention(
    make: Make, ids: torch.Tensor, attention: str
) -> None:
    model = make("llama", attention=attention, steps=8)
    model(ids, labels=ids).loss.backward()
    block = model.model.model.layers[0].self_attn
    for name in ("query.weight", "key.weight", "value.weight", "out.weight", "fire_in.threshold",
                 "fire_query.threshold", "fire_value.threshold"):  # fmt: skip
        grad = block.get_parameter(name).grad
        assert grad is not None, name
        assert float(grad.abs().sum()) > 0, name


@pytest.mark.parametrize("kind", list(SOURCES))
def test_saves_loads_and_generates(
    make: Make, ids: torch.Tensor, tmp_path: Path, kind: str
) -> None:
    model: Any = make(kind, attention="cwssa")
    model.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["model.safetensors"]
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert type(loaded) is NeurTransformerForCausalLM
    assert loaded.config.max_position_embeddings == 32
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, model(ids).logits)
    settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    cached = loaded.generate(ids, use_cache=True, **settings)
    assert cached.shape == (2, 15)
    assert torch.equal(cached, loaded.generate(ids, use_cache=False, **settings))


def test_dense_modules_stay(make: Make) -> None:
    model = make("gpt2", dense=["0.attention", "1.mlp"])
    kinds = [
        (type(block.attn).__name__, type(block.mlp).__name__) for block in model.model.transformer.h
    ]
    assert kinds == [
        ("GPT2Attention", "SpikingFeedForward"),
        ("SpikingSelfAttention", "GPT2MLP"),
    ]


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"ffn": "gelu"}, "ffn='gelu' is unknown; one of signed-if"),
        ({"attention": "cwsa"}, "Did you mean 'cwssa'"),
        ({"attention": "power-of-two", "weight_digits": 5}, "weight_digits must be 1 to 4, not 5"),
        ({"wta": "sparsemax"}, "wta='sparsemax' is unknown"),
        ({"winners": 0}, "winners must be at least 1"),
        ({"code": "phase", "steps": 9}, "at most 8 steps with attention='ssa'"),
        ({"code": "phase", "steps": 17, "attention": "kept"}, "at most 16 steps"),
        ({"code": "phase", "ffn": "qcfs"}, "code='phase' is for signed-if neurons"),
    ],
)
def test_configs_that_describe_nothing(choices: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        neurtransformer_config(source=SOURCES["gpt2"].to_dict(), **({"steps": 4} | choices))


def test_a_source_is_needed_and_known() -> None:
    with pytest.raises(ConfigError, match="names no source"):
        NeurTransformerForCausalLM(NeurTransformerConfig())
    with pytest.raises(ConfigError, match="model_type 'opt' has no conversion; known: gpt2"):
        neurtransformer_config(source={"model_type": "opt"})
