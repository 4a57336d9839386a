"""An attention of a researcher's own in a language model, without touching our source."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from spikeformers.attention import ATTENTIONS, Attention, register_attention
from spikeformers.energy import audit, energy_of
from spikeformers.errors import ConfigError
from spikeformers.export import pack
from spikeformers.models import WDSpikingformerConfig, WDSpikingformerForCausalLM

SHAPE: dict[str, Any] = {
    **{"vocab_size": 31, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
    **{"max_position_embeddings": 16, "initializer_range": 0.3},
}


class Agreement(Attention):
    """A key counts where at least ``least`` of its spikes coincide with the query's."""

    weights_are_binary = True
    takes_bias = False

    def __init__(self, least: float) -> None:
        super().__init__()
        self.least = least

    @classmethod
    def from_config(cls, config: Any) -> Agreement:
        return cls(**(config.attention_options or {"least": 1.0}))

    def weights(self, q: Tensor, k: Tensor, allowed: Tensor, bias: Tensor | None) -> Tensor:
        scores = self.scores(q, k, bias)
        soft = torch.sigmoid(scores - self.least)
        return ((scores >= self.least).to(q.dtype) + soft - soft.detach()) * allowed

    def operations(self, pairs: Tensor) -> dict[str, int]:
        return {"compare": int(pairs.sum())}


@pytest.fixture(autouse=True)
def registered() -> None:
    register_attention("my-agreement", Agreement)


def model_of(**more: Any) -> WDSpikingformerForCausalLM:
    torch.manual_seed(0)
    config = WDSpikingformerConfig(**SHAPE, attention="my-agreement", **more)
    return WDSpikingformerForCausalLM(config).eval()


def ids_of(*shape: int) -> Tensor:
    return torch.randint(0, 31, shape, generator=torch.Generator().manual_seed(1))


def test_it_is_used_in_every_block_with_its_options_and_positions() -> None:
    model = model_of(attention_options={"least": 2.0})
    cores = [layer.attention.core for layer in model.model.layers]
    assert [(type(core), core.least) for core in cores] == [(Agreement, 2.0)] * 2
    assert model.config.position == "learned"  # it takes no bias
    with pytest.raises(ConfigError, match="multiplies its scores with V"):
        WDSpikingformerConfig(**SHAPE, attention="my-agreement", position="relative")


def test_it_trains_generates_with_a_cache_and_is_saved(tmp_path: Any) -> None:
    model, ids = model_of().train(), ids_of(4, 12)
    model(input_ids=ids, labels=ids).loss.backward()
    gradients = [layer.attention.query.weight.grad for layer in model.model.layers]
    assert all(float(gradient.abs().sum()) > 0 for gradient in gradients)
    model.eval()
    with_cache = model.generate(ids[:, :4], max_new_tokens=6, do_sample=False)
    without = model.generate(ids[:, :4], max_new_tokens=6, do_sample=False, use_cache=False)
    assert torch.equal(with_cache, without)
    model.save_pretrained(tmp_path)
    again = WDSpikingformerForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(again(input_ids=ids).logits, model(input_ids=ids).logits)


def test_energy_counts_its_stated_operations_and_the_audit_sees_binary_products(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, ids = model_of(neuron="lif", steps=2), ids_of(2, 12)
    compared = energy_of(model, [ids]).total.operations["compare"]
    monkeypatch.setattr(Agreement, "operations", lambda self, pairs: {})
    of_neurons = energy_of(model, [ids]).total.operations["compare"]
    # Two layers of two heads in two steps; a token of a text of 12 has 6.5 keys on average.
    assert compared - of_neurons == pytest.approx(2 * 2 * 2 * 6.5)
    report = audit(model, [ids])
    assert report.failures("softmax-free") == []
    sums = [row for name, row in report.products().items() if "core" in name]
    assert sums
    assert {row.verdict for row in sums} == {"binary"}


def test_the_engine_refuses_an_unknown_attention() -> None:
    with pytest.raises(ConfigError, match="the engine does not know the attention Agreement"):
        pack(model_of(), None, "fp32")


def test_another_class_or_name_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"derived from spikeformers\.attention\.Attention"):
        register_attention("linear", torch.nn.Linear)  # type: ignore[arg-type]
    assert "linear" not in ATTENTIONS
    with pytest.raises(ConfigError, match=r"Did you mean 'my-agreement'\?"):
        WDSpikingformerConfig(**SHAPE, attention="my-agrement")
