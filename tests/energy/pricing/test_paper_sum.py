from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from spikeformers.energy import PAPER, energy_of
from spikeformers.errors import DataError

Make = Callable[..., Any]
MODELS = [
    {"position": "learned"},
    {"wta": "top_k", "winners": 2},
    {"attention": "ssa", "neuron": "lif", "steps": 2},
    {"attention": "softmax", "neuron": "t-lif"},
    {"attention": "power-of-two", "neuron": "dead-zone"},
    {"spiking_head": True},
]


@pytest.mark.parametrize("overrides", MODELS)
def test_the_total_is_the_sum_of_its_parts(
    spiking: Make, ids: Tensor, overrides: dict[str, Any]
) -> None:
    report = energy_of(spiking("wd", **overrides), [ids, ids[:1]])
    assert report.tokens == 21
    products = sum(
        0.9 * product.sop if product.spiking else 4.6 * product.macs for product in report.products
    )
    assert report.picojoules_per_token == pytest.approx(products / 21)
    for parts in (report.by_component, report.by_layer):
        for what in ("picojoules", "with_elementwise", "macs", "sop"):
            complete = getattr(report.total, what)
            assert sum(getattr(share, what) for share in parts.values()) == pytest.approx(complete)
        for kind, n in report.total.operations.items():
            result = sum(share.operations.get(kind, 0) for share in parts.values())
            assert result == pytest.approx(n)
    assert report.with_elementwise_per_token == pytest.approx(
        report.picojoules_per_token + PAPER.of_operations(report.total.operations)  # type: ignore[arg-type]
    )


def test_a_dense_twin_pays_for_every_mac(dense: Make, ids: Tensor) -> None:
    report = energy_of(dense("wd"), [ids])
    assert report.picojoules_per_token == pytest.approx(4.6 * report.macs_per_token)
    assert report.sop_per_token == 0
    assert report.density is None
    assert report.density_by_macs is None
    assert report.winner_comparisons_per_token == 0


def test_only_the_head_of_a_spiking_model_is_dense(spiking: Make, ids: Tensor) -> None:
    report = energy_of(spiking("wd"), [ids])
    head = report.by_component["head"]
    assert head.picojoules == pytest.approx(4.6 * 16 * 50)
    assert report.picojoules_per_token == pytest.approx(
        head.picojoules + 0.9 * report.sop_per_token
    )
    spiked = energy_of(spiking("wd", spiking_head=True), [ids])
    assert spiked.picojoules_per_token == pytest.approx(0.9 * spiked.sop_per_token)
    assert spiked.by_component["head"].sop > 0


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"neuron": "i-lif"},
        {"levels": 3, "steps": 2},
        {"wta": "top_k"},
        {"attention": "ssa"},
        {"attention": "softmax"},
        {"wta": "sparsemax"},
        {"spiking_head": True},
    ],
)
def test_binary_sub_steps_cost_as_much_as_their_counts(
    spiking: Make, ids: Tensor, overrides: dict[str, Any]
) -> None:
    model = spiking("wd", **overrides)
    counts, steps = energy_of(model, [ids]), energy_of(model.expand_to_binary(), [ids])
    assert steps.sop_per_token == counts.sop_per_token > 0
    assert {p.name: p.sop for p in steps.products} == {p.name: p.sop for p in counts.products}
    assert steps.total.operations == counts.total.operations
    for name, spikes in counts.neurons.items():
        assert steps.neurons[name].kind == "binary"
        assert steps.neurons[name].nonzero == spikes.total


def test_densities(spiking: Make, ids: Tensor) -> None:
    report = energy_of(spiking("wd"), [ids])
    neurons = report.neurons.values()
    assert report.density == pytest.approx(sum(n.nonzero / n.size for n in neurons) / len(neurons))
    spiking_products = [product for product in report.products if product.spiking]
    assert len(spiking_products) == len(report.products) - 1
    weighted = sum(product.macs * product.density for product in spiking_products)
    assert report.density_by_macs == pytest.approx(
        weighted / sum(product.macs for product in spiking_products)
    )
    query = report.neurons["model.layers.0.attention.fire_query.neuron"]
    key = report.neurons["model.layers.0.attention.fire_key.neuron"]
    scores = next(p for p in report.products if p.name == "model.layers.0.attention.core.scores")
    assert scores.density == pytest.approx((query.density + key.density) / 2)


def test_a_silent_network_pays_only_its_head(spiking: Make, ids: Tensor) -> None:
    model = spiking("wd")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "fire" in name:  # every neuron sees a current of -5
                parameter.fill_(-5.0 if name.endswith("bias") else 0.0)
    report = energy_of(model, [ids])
    assert report.sop_per_token == 0
    assert report.density == 0
    assert report.picojoules_per_token == pytest.approx(4.6 * 16 * 50)


def test_json(spiking: Make, dense: Make, ids: Tensor) -> None:
    for model in (spiking("wd"), dense("we", "rotary")):
        report = energy_of(model, [{"input_ids": ids, "labels": ids}])
        plain = json.loads(json.dumps(report.as_dict(), allow_nan=False))
        assert plain["label"] == "estimated"
        assert plain["picojoules_per_token"] == pytest.approx(report.picojoules_per_token)
        assert set(plain["by_layer"]) == {"0", "1", "outside"}
        assert len(plain["products"]) == len(report.products)


def test_other_prices(spiking: Make, ids: Tensor) -> None:
    from dataclasses import replace

    from spikeformers.energy import Cost

    cheap = replace(PAPER, accumulate=Cost(0.0, "free"), mac=Cost(1.0, "one"))
    assert energy_of(spiking("wd"), [ids], prices=cheap).picojoules_per_token == 16 * 50


def test_no_tokens_is_an_error(spiking: Make) -> None:
    with pytest.raises(DataError, match="no token"):
        energy_of(spiking("wd"), [])
