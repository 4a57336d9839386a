"""A2OS2A in the language models: what learns, what flows, what the cache keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from spikeformers.attention import A2OS2A
from spikeformers.energy import audit, trace
from spikeformers.errors import ConfigError
from spikeformers.models._cache import RunningState
from spikeformers.neurons import LIF, TLIF, Rectifier

Make = Callable[..., Any]
CHOICES: dict[str, Any] = {"attention": "a2os2a", "position": "learned", "dtype": torch.float64}


def ids(batch: int, tokens: int) -> torch.Tensor:
    return torch.randint(0, 23, (batch, tokens), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("kind", ["wd", "we"])
def test_the_three_roles(make_model: Make, kind: str) -> None:
    attention = make_model(kind, **CHOICES).model.layers[0].attention
    assert isinstance(attention.fire_query.neuron, LIF)
    assert isinstance(attention.fire_key.neuron, Rectifier)
    assert isinstance(attention.fire_value.neuron, TLIF)
    assert attention.fire_query.neuron.reset == attention.fire_value.neuron.reset == "hard"
    assert isinstance(attention.core, A2OS2A)
    assert attention.core.causal == (kind == "wd")


@pytest.mark.parametrize("kind", ["wd", "we"])
@pytest.mark.parametrize("order", ["scores", "state"])
@pytest.mark.parametrize("roles", [("binary", "relu", "ternary"), ("binary", "binary", "binary")])
def test_q_k_and_v_all_get_a_gradient(make_model: Make, kind: str, order: str, roles: Any) -> None:
    """A public re-implementation had a V without one, and drew conclusions from it."""
    names = dict(zip(("query_neuron", "key_neuron", "value_neuron"), roles, strict=True))
    model = make_model(kind, attention_order=order, steps=2, neuron="lif", **names, **CHOICES)
    model.train()
    tokens = ids(2, 12)
    model(tokens, labels=tokens).loss.backward()
    for layer in model.model.layers:
        for name in ("query", "key", "value", "out"):
            assert getattr(layer.attention, name).weight.grad.norm() > 1e-6, name


@torch.no_grad()
def test_both_orders_give_the_same_logits(make_model: Make) -> None:
    for kind in ("wd", "we"):
        scores = make_model(kind, attention_order="scores", **CHOICES)
        state = make_model(kind, attention_order="state", **CHOICES)
        state.load_state_dict(scores.state_dict())
        tokens, mask = ids(2, 12), torch.ones(2, 12, dtype=torch.long)
        mask[0, :5] = 0
        real = mask.bool()
        by_scores = scores(tokens, attention_mask=mask).logits[real]
        two = state(tokens, attention_mask=mask).logits[real]
        assert by_scores.std() > 0.1
        torch.testing.assert_close(two, by_scores, rtol=0, atol=1e-9)


@torch.no_grad()
def test_the_cache_of_a_state_does_not_grow(make_model: Make) -> None:
    model = make_model("wd", attention_order="state", steps=2, neuron="lif", **CHOICES)
    cache, tokens = DynamicCache(config=model.config), ids(3, 20)

    def held() -> int:
        return sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)

    sizes = []
    for start, stop in [(0, 4), (4, 5), (5, 20)]:
        model(tokens[:, start:stop], past_key_values=cache, use_cache=True)
        assert cache.get_seq_length() == stop
        sizes.append(held())
    assert all(isinstance(layer, RunningState) for layer in cache.layers)
    assert sizes == [2 * 2 * 3 * 2 * 8 * 8] * 3  # layers, S, B, H, K, K


def test_generation_with_a_state(make_model: Make) -> None:
    model = make_model("wd", attention_order="state", **CHOICES)
    given = {"max_new_tokens": 8, "do_sample": False}
    for beams in (1, 3):
        cached = model.generate(ids(2, 5), use_cache=True, num_beams=beams, **given)
        whole = model.generate(ids(2, 5), use_cache=False, num_beams=beams, **given)
        assert torch.equal(cached, whole)


@torch.no_grad()
def test_a_state_has_no_weights_on_earlier_tokens(make_model: Make) -> None:
    model = make_model("wd", attention_order="state", **CHOICES)
    out = model(ids(1, 6), output_attentions=True, use_cache=True)
    assert out.attentions[0].shape == (1, 2, 6, 6)
    with pytest.raises(ConfigError, match="keeps no keys"):
        model(ids(1, 1), past_key_values=out.past_key_values, output_attentions=True)
    rows = make_model("wd", **CHOICES)(ids(1, 6), use_cache=True).past_key_values
    with pytest.raises(ConfigError, match="empty cache"):
        model(ids(1, 1), past_key_values=rows)


def test_positions_are_no_bias(make_config: Make) -> None:
    assert make_config("wd", attention="a2os2a", position=None).position == "learned"
    with pytest.raises(ConfigError, match="would add reals"):
        make_config("wd", attention="a2os2a", position="relative").validate_architecture()
    with pytest.raises(ConfigError, match="Did you mean 'ternary'"):
        make_config("wd", attention="a2os2a", position="none", value_neuron="ternry")


def test_the_audit_finds_additions_alone(make_model: Make) -> None:
    model = make_model("wd", **CHOICES).float()
    report = audit(model, [ids(2, 12)])
    assert report.failures("addition-only") == []
    assert report.failures("softmax-free") == []
    inside = [row for row in report.rows if ".attention.core" in row.module]
    assert [(row.role, row.verdict) for row in inside if row.title == "product"] == [
        *((role, verdict) for _ in range(2) for role, verdict in
          (("scores", "binary"), ("values", "adder"))),
    ]  # fmt: skip
    # Nothing but the mask is multiplied: there is no scale.
    assert {row.title for row in inside} == {"product", "multiplication"}
    assert {row.verdict for row in inside if row.title == "multiplication"} == {"adder"}


def test_energy_counts_what_each_order_computes(make_model: Make) -> None:
    """By a loop over tokens: scores cost events of Q by width, the state pairs of K and V."""
    caught: dict[str, torch.Tensor] = {}
    for order in ("scores", "state"):
        model = make_model("wd", attention_order=order, **CHOICES).float()
        attention = model.model.layers[0].attention
        for name in ("query", "value"):
            fire = getattr(attention, f"fire_{name}")
            fire.register_forward_hook(lambda _m, _i, out, name=name: caught.update({name: out}))
        traced = trace(model, ids(2, 12)).products
        q, v = (caught[name][0].abs() for name in ("query", "value"))  # one step, [B, T, D]
        place = "model.layers.0.attention.core"
        if order == "scores":
            reach = torch.arange(1, 13)  # a query sees itself and what is before; K is real
            assert traced[f"{place}.scores"].sop == int((q.sum(-1) * reach).sum())
            assert traced[f"{place}.scores"].macs == 2 * 12 * 13 // 2 * 16
            continue
        # Each event of V meets the 8 real numbers of its head's K; each of Q reads 8 of Z.
        assert traced[f"{place}.state"].sop == int(v.sum()) * 8
        assert traced[f"{place}.read"].sop == int(q.sum()) * 8
        assert traced[f"{place}.state"].macs == traced[f"{place}.read"].macs == 2 * 12 * 16 * 8
        assert traced[f"{place}.state"].left.kind == "real"
        assert traced[f"{place}.state"].right.kind == "ternary"


def test_energy_of_a_state_over_several_blocks(make_model: Make) -> None:
    model = make_model("wd", attention_order="state", max_position_embeddings=150, **CHOICES)
    traced = trace(model.float(), ids(1, 140)).products
    assert traced["model.layers.1.attention.core.state"].macs == 140 * 16 * 8
