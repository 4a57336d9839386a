"""The audit of whole models: ours, their dense twins, and what was sneaked into one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

from spikeformers.energy import audit, trace
from spikeformers.errors import ConfigError, DataError, SpikeformersError

Make = Callable[..., Any]
NEURONS = {"ni-lif": "integer", "i-lif": "integer", "lif": "binary", "t-lif": "ternary"}
ATTENTION: list[dict[str, Any]] = [
    {"wta": "hard"},
    {"wta": "top_k"},
    {"wta": "top_k", "winner_weight": "mean"},
    {"wta": "sparsemax"},
    {"attention": "ssa"},
    {"attention": "softmax"},
    {"attention": "power-of-two"},
]
IDS = torch.arange(24).reshape(2, 12)
IDS = torch.arange(24).reshape(2, 12)


@pytest.mark.parametrize("kind", ["wd", "we"])
@pytest.mark.parametrize("neuron", NEURONS)
@pytest.mark.parametrize("attention", ATTENTION)
def test_an_adder_does_every_product_in_the_blocks(
    spiking: Make, ids: Tensor, kind: str, neuron: str, attention: dict[str, Any]
) -> None:
    report = audit(spiking(kind, neuron=neuron, steps=2, **attention), [ids])
    products = report.products()
    assert len(products) == 2 * 8  # q, k, v, scores, values, out, up, down
    assert report.failures("addition-only") == []
    for name, product in products.items():
        left, right = product.operands
        if name.endswith(".scores"):
            assert left.kind == right.kind == NEURONS[neuron]
            assert left.source == right.source == "neuron"
        elif name.endswith(".values"):
            assert right.kind == NEURONS[neuron]
            if attention.get("wta") in ("hard", "top_k"):
                assert left.kind == "binary"
        else:
            assert (left.kind, left.source, left.constant) == (NEURONS[neuron], "neuron", False)
            assert (right.kind, right.constant) == ("real", True)
    softmaxes = [row.name for row in report.failures("softmax-free")]
    assert softmaxes == [
        f"model.layers.{layer}.attention.core"
        for layer in range(2 * (attention.get("attention") == "softmax"))
    ]
    assert (report.failures("binary") == []) == (neuron == "lif")


def test_bispikclm(binary: Any, ids: Tensor) -> None:
    report = audit(binary, [ids])
    assert report.failures("softmax-free", scope="model") == []
    assert report.failures("addition-only") == []
    # One product a block reads counts (O_int); all others have an operand of zeros and ones.
    short = report.failures("binary", scope="model")
    assert [(row.name, row.operands[0].kind) for row in short] == [
        ("model.layers.0.attention.out", "integer"),
        ("model.layers.1.attention.out", "integer"),
        ("lm_head", "real"),
    ]
    assert len(report.products()) == 2 * 8
    edges, values = report.products()["model.layers.0.attention.core.values"].operands
    assert (edges.kind, edges.source) == (values.kind, values.source) == ("binary", "neuron")
    strictly = report.failures("addition-only", strict=True)
    assert {row.title for row in strictly} == {"normalisation", "multiplication"}
    leaks = [row for row in strictly if row.title == "multiplication"]
    assert {row.module.rsplit(".", 1)[1] for row in leaks} == {"neuron"}  # beta = 0.9
    assert {row.verdict for row in leaks} == {"scale"}


@pytest.mark.parametrize(
    "block", [{"pre_norm": False}, {"projection_norm": False}, {"wta": "top_k", "sum_norm": False}]
)
def test_other_blocks_too(spiking: Make, ids: Tensor, block: dict[str, Any]) -> None:
    assert audit(spiking("wd", **block), [ids]).failures("addition-only") == []


def test_counts_expanded_to_zeros_and_ones(spiking: Make, ids: Tensor) -> None:
    report = audit(spiking("wd").expand_to_binary(), [ids])
    (scores,) = report.failures("binary")  # counts, once einsum has summed the sub-steps
    assert (scores.name, scores.verdict) == ("model.layers.0.attention", "adder")
    assert [side.kind for side in scores.operands] == ["integer", "integer"]
    assert report.failures("addition-only") == report.failures("softmax-free") == []


def test_the_head_is_dense_unless_it_spikes(spiking: Make, ids: Tensor) -> None:
    plain = audit(spiking("wd"), [ids])
    assert [row.name for row in plain.failures("addition-only", scope="model")] == ["lm_head"]
    spiked = audit(spiking("wd", spiking_head=True), [ids])
    assert spiked.failures("addition-only", scope="model") == []


def test_what_strict_finds_in_a_spiking_block(spiking: Make, ids: Tensor) -> None:
    report = audit(spiking("wd", num_hidden_layers=1), [ids])
    failures = report.failures("addition-only", strict=True)
    assert {row.title for row in failures} == {"normalisation"}
    assert len(failures) == 6  # in front of each neuron
    three = audit(spiking("wd", num_hidden_layers=1, levels=3), [ids])
    # The value of a spike is 1/3: times counts it is additions, dividing scores by 1/9 is not.
    divided = [
        row for row in three.failures("addition-only", strict=True) if row.title == "division"
    ]
    assert [(row.name, row.verdict) for row in divided] == [
        ("model.layers.0.attention.core", "scale")
    ]


@pytest.mark.parametrize("kind", ["wd", "we"])
@pytest.mark.parametrize("positions", ["learned", "rotary"])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_dense_twins_fail(
    dense: Make, ids: Tensor, kind: str, positions: str, implementation: str
) -> None:
    model = dense(kind, positions)
    if not (kind == "we" and positions == "rotary"):  # RoFormer knows only eager attention
        model.set_attn_implementation(implementation)
    report = audit(model, [ids])
    assert len(report.products()) >= 2 * 6
    assert report.failures("addition-only") == list(report.products().values())
    assert [row.title for row in report.failures("softmax-free")] == ["softmax"] * 2


def test_transformers_of_other_families_fail() -> None:
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    llama = LlamaForCausalLM(
        LlamaConfig(intermediate_size=32, num_key_value_heads=1, **sizes)  # type: ignore[arg-type]
    )
    opt = OPTForCausalLM(
        OPTConfig(ffn_dim=32, word_embed_proj_dim=16, max_position_embeddings=32, **sizes)  # type: ignore[arg-type]
    )
    report = audit(llama, [IDS])
    assert [row.name.removeprefix("model.layers.0.") for row in report.failures("binary")] == [
        "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.scores",
        "self_attn.values", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
    ]  # fmt: skip
    assert [row.title for row in report.failures("softmax-free")] == ["softmax"]
    assert len(audit(opt, [IDS]).failures("addition-only")) == 8


def test_real_numbers_sneaked_into_a_block_are_found(spiking: Make, ids: Tensor) -> None:
    model = spiking("wd")
    model.model.layers[1].mlp.fire_hidden.neuron = nn.GELU()
    failures = audit(model, [ids]).failures("addition-only")
    assert [row.name for row in failures] == ["model.layers.1.mlp.down"]


def test_a_product_that_energy_refuses_is_listed(spiking: Make, ids: Tensor) -> None:
    model = spiking("wd")
    norm = model.model.layers[0].mlp.out_norm
    weight = torch.randn(16, 16)
    norm.register_forward_hook(lambda module, args, out: out @ weight)
    with pytest.raises(SpikeformersError, match=r"in model\.layers\.0\.mlp"):
        trace(model, ids)
    (result,) = audit(model, [ids]).failures("addition-only")
    assert (result.name, result.op) == ("model.layers.0.mlp.out_norm", "aten.mm")
    assert [side.shape for side in result.operands] == [(14, 16), (16, 16)]


def test_a_linear_layer_that_spoils_its_spikes_is_found(spiking: Make, ids: Tensor) -> None:
    class Sneaky(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input + 0.1 * input.sum(-1, keepdim=True).cos())

    model = spiking("wd")
    model.model.layers[0].mlp.up = Sneaky(16, 32)
    failures = audit(model, [ids]).failures("addition-only")
    assert [row.name for row in failures] == ["model.layers.0.mlp.up"]
    assert trace(model, ids).products["model.layers.0.mlp.up"].spiking  # a hook sees its input


def test_a_scope_without_products_is_an_error() -> None:
    report = audit(Plain(), [IDS])
    with pytest.raises(ConfigError, match="no matrix product ran in the blocks of Plain"):
        report.failures("binary")
    assert [row.name for row in report.failures("binary", scope="model")] == ["up"]
    assert report.as_dict()["falls_short"]["blocks"] is None


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.up = nn.Embedding(50, 4), nn.Linear(4, 4)

    def forward(self, input_ids: Tensor) -> Tensor:
        y: Tensor = self.up(self.embed(input_ids))
        return y


def test_no_tokens() -> None:
    with pytest.raises(DataError, match="no token"):
        audit(Plain(), [])


def test_an_audit_changes_nothing(spiking: Make, ids: Tensor) -> None:
    model = spiking("wd").train()
    before = model(ids).logits
    audit(model, [ids])
    assert model.training
    assert torch.equal(model(ids).logits, before)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("signed", [True, False])
def test_signed_counts_are_integer_spikes_that_an_adder_takes(
    spiking: Make, ids: Tensor, signed: bool
) -> None:
    neurons = {"hidden": {"neuron": "ni-lif", "levels": 3}}
    given = {"neuron": "dead-zone", "levels": 12, "signed": signed, "wta": "top_k"}
    report = audit(spiking("wd", neurons=neurons, **given), [ids])
    assert report.failures("addition-only") == []
    words = {}
    for name, product in report.products().items():
        spikes = product.operands[1 if name.endswith(".values") else 0]
        assert (spikes.kind, spikes.source) == ("integer", "neuron")
        words[name] = spikes.in_words
    expected = "signed integer" if signed else "integer"
    assert {n: word for n, word in words.items() if word != expected} == {
        n: "integer" for n in words if signed and n.endswith("mlp.down")
    }


@torch.no_grad()
def test_on_and_off_spikes_cost_what_signed_counts_cost(spiking: Make, ids: Tensor) -> None:
    """In a rate code; of zeros and ones there is no cheaper one."""
    neurons = {"query": {"levels": 5}, "value": {"neuron": "i-lif", "levels": 3}}
    given = {"neuron": "dead-zone", "levels": 12, "wta": "top_k", "neurons": neurons}
    model = spiking("wd", spiking_head=True, **given)
    counted, unrolled = trace(model, ids), trace(model.expand_to_binary(), ids)
    assert counted.products.keys() == unrolled.products.keys()
    cheaper = 0
    for name, product in counted.products.items():
        twin = unrolled.products[name]
        assert product.sop == twin.sop > 0, name
        if product.role == "linear":
            assert twin.digit_sop == twin.sop
        assert product.digit_sop <= product.sop
        cheaper += product.digit_sop < product.sop
    assert cheaper > len(counted.products) / 2
