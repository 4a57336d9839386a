"""What thresholds per token cost, and what an audit sees of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Gemma3TextConfig, LlamaConfig, MistralConfig, Qwen3Config

from spikeformers.energy import audit, density_of, trace
from spikeformers.models import NeurTransformerConfig, NeurTransformerForCausalLM
from spikeformers.neurons import TokenIF, observe

IDS = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(1))
ALL = ["ffn", "qkv", "out", "head"]


SIZES: dict[str, Any] = {
    **{"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"num_key_value_heads": 2, "intermediate_size": 24, "max_position_embeddings": 32},
}
OTHERS = {
    "mistral": MistralConfig(**SIZES, sliding_window=4),
    "qwen3": Qwen3Config(**SIZES, head_dim=8),
    "gemma3_text": Gemma3TextConfig(**SIZES, head_dim=8, sliding_window=4),
}


def make(source: Any = None, **choices: Any) -> NeurTransformerForCausalLM:
    source = source or LlamaConfig(**SIZES)
    torch.manual_seed(5)
    fields: dict[str, Any] = {
        **{"threshold": "token", "code": "phase", "attention": "kept", "spiking_maps": ALL},
        **{"steps": 5, "token_reach": 2.0},
    }
    config = NeurTransformerConfig(source=source.to_dict(), **(fields | choices))
    model = NeurTransformerForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 0.3)
    return model.eval()


def counts(model: NeurTransformerForCausalLM) -> dict[str, Tensor]:
    """What every layer of neurons fires, by name."""
    fired: dict[str, Tensor] = {}
    with torch.no_grad(), observe(model, lambda name, _, spikes: fired.__setitem__(name, spikes)):
        model(IDS)
    return fired


def ones(x: Tensor) -> int:
    """Binary digits that are 1."""
    return sum(bin(int(n)).count("1") for n in x.abs().flatten().tolist())


def test_a_product_costs_the_digits_of_both_neurons_times_its_outputs() -> None:
    model = make()
    fired, products = counts(model), trace(model, IDS).products
    layer = "model.model.layers.0"
    for neuron, readers in {
        f"{layer}.self_attn.fire": {"self_attn.inner.q_proj": 16, "self_attn.inner.v_proj": 8},
        f"{layer}.self_attn.inner.o_proj.fire": {"self_attn.inner.o_proj.inner": 16},
        f"{layer}.mlp.fire_in": {"mlp.up": 24, "mlp.gate": 24},
        f"{layer}.mlp.fire_hidden": {"mlp.down": 16},
    }.items():
        assert int((fired[neuron].abs() > 15).sum()) > 0  # far neurons have a part in it
        for name, outputs in readers.items():
            assert products[f"{layer}.{name}"].sop == ones(fired[neuron]) * outputs, name
    assert products["model.lm_head"].sop == ones(fired["model.lm_head.fire"]) * 50


def test_all_linear_maps_have_spikes_and_softmax_has_not() -> None:
    products = trace(make(), IDS).products
    real = {name.rsplit(".", 1)[-1] for name, product in products.items() if not product.spiking}
    assert real == {"scores", "values"}


def test_each_sum_is_multiplied_by_its_tokens_unit_unless_that_is_a_shift() -> None:
    tokens = 2 * 9
    for power_of_two, factors in ((False, tokens * 50), (True, 0)):
        counted = trace(make(power_of_two_units=power_of_two), IDS).operations
        assert counted.get(("head", None), {}).get("mult", 0) == factors
    sums = {("mlp", 0): 24 + 24 + 16, ("attention projections", 0): 16 + 8 + 8 + 16}
    counted = trace(make(), IDS).operations
    for where, outputs in sums.items():
        assert counted[where]["mult"] == tokens * outputs


def test_far_neurons_are_counted_apart_and_within_their_layer() -> None:
    model = make()
    fired, traced = counts(model), trace(model, IDS)
    name = "model.model.layers.1.mlp.fire_hidden"
    near, far = fired[name].abs() % 16, fired[name].abs() // 16
    of_near, own = (traced.populations[f"{name}.{kind}"] for kind in ("near", "far"))
    assert (of_near.nonzero, of_near.total) == (int((near > 0).sum()), ones(near))
    assert (own.nonzero, own.total) == (int((far > 0).sum()), ones(far))
    assert 0 < own.nonzero < of_near.nonzero
    assert traced.neurons[name].total == ones(fired[name])
    assert f"{name}.far" not in traced.neurons
    densities = density_of(model, [IDS])
    assert densities[f"{name}.far"].nonzero == own.nonzero
    assert densities[f"{name}.near"].nonzero == of_near.nonzero
    assert densities[name].nonzero == int((fired[name] != 0).sum())


def test_bits_of_a_value_are_the_near_neurons_and_a_mark() -> None:
    left = trace(make(), IDS).products["model.lm_head"].left
    assert (left.kind, left.planes) == ("integer", 6)


def test_a_neuron_counts_its_own_operations() -> None:
    counted = trace(make(spiking_maps=["head"], ffn="kept"), IDS).operations[("neurons", None)]
    assert counted == TokenIF(16, 5).operations(2 * 9 * 16, 1)


@pytest.fixture(scope="module")
def report() -> Any:
    return audit(make(), [IDS, IDS.flip(1)])


def test_an_audit_sees_a_unit_per_token_at_every_map(report: Any) -> None:
    products = report.products("model")
    maps = {name: row for name, row in products.items() if not name.endswith(("scores", "values"))}
    assert len(maps) == 2 * 7 + 1
    for name, row in maps.items():
        assert row.verdict == "adder", name
        assert row.operands[0].as_dict()["unit_per"] == "token", name
        assert (row.operands[0].kind, row.operands[0].source) == ("integer", "neuron"), name
    assert {row.name.rsplit(".", 1)[-1] for row in report.failures("addition-only", scope="model")
            } == {"scores", "values"}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
def test_every_map_of_the_other_sources_reads_spikes_too(kind: str) -> None:
    model = make(OTHERS[kind])
    fired, report = counts(model), audit(model, [IDS])
    for name, row in report.products("model").items():
        assert row.verdict == ("multiplier" if name.endswith(("scores", "values")) else "adder")
    traced = trace(model, IDS)
    assert len(traced.products) == 2 * 9 + 1
    assert traced.products["model.lm_head"].sop == ones(fired["model.lm_head.fire"]) * 50
    query = traced.products["model.model.layers.0.self_attn.inner.q_proj"]
    outputs = 4 * (4 if kind == "mistral" else 8)
    assert query.sop == ones(fired["model.model.layers.0.self_attn.fire"]) * outputs


def test_an_audit_shows_how_many_near_and_far_neurons_fired(report: Any) -> None:
    shown = report.as_dict()["populations"]
    assert len(shown) == 2 * (2 * 4 + 1)
    near, far = (shown[f"model.lm_head.fire.{kind}"] for kind in ("near", "far"))
    assert near["size"] == far["size"] == 2 * IDS.numel() * 16
    assert 0 < far["fired"] < far["size"] / 5 < near["fired"] <= near["size"]
    assert near["kind"] == far["kind"] == "integer"


def test_units_that_are_powers_of_two_need_no_division() -> None:
    def verdicts(**choices: Any) -> dict[str, str]:
        seen = audit(make(**choices), [IDS])
        assert all(row.verdict != "unknown" for row in seen.rows)
        by_unit = [row for row in seen.rows if row.name.endswith(("fire", "fire_in", "fire_hidden"))
                   and row.title == "division" and not row.operands[1].constant]  # fmt: skip
        assert len(by_unit) == 2 * 4 + 1
        return {row.name: row.verdict for row in by_unit}

    assert set(verdicts().values()) == {"multiplier"}
    assert set(verdicts(power_of_two_units=True).values()) == {"adder"}


def test_a_factor_per_token_that_no_neuron_states_is_no_unit() -> None:
    """The same arithmetic on the counts of a neuron whose spikes have one value."""

    class Factor(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Embedding(50, 16)
            self.fire = TokenIF(16, 5)
            self.fire.value_per_token = False
            self.up = torch.nn.Linear(16, 8, bias=False)

        def forward(self, input_ids: Tensor) -> Tensor:
            x = self.embed(input_ids).unsqueeze(0)
            y: Tensor = self.up(self.fire(x) * x.abs().amax(-1, keepdim=True))
            return y

    torch.manual_seed(3)
    row = audit(Factor(), [IDS]).products("model")["up"]
    assert (row.verdict, row.operands[0].kind) == ("multiplier", "real")
