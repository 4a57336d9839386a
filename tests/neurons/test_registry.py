"""A neuron of a researcher's own in a language model, without touching our source."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from spikeformers.energy import audit, energy_of
from spikeformers.errors import ConfigError
from spikeformers.models import WDSpikingformerConfig, WDSpikingformerForCausalLM
from spikeformers.neurons import NEURONS, Neuron, register_neuron

SHAPE: dict[str, Any] = {
    **{"vocab_size": 31, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
    **{"max_position_embeddings": 16, "initializer_range": 0.3},
}


class Threshold(Neuron):
    """Binary, without a membrane: S = [X >= theta], with a straight-through gradient."""

    def __init__(self, theta: float) -> None:
        super().__init__()
        self.theta = theta

    @classmethod
    def from_config(cls, config: Any) -> Threshold:
        return cls(**(config.neuron_options or {"theta": 0.5}))

    def fire(self, u: Tensor) -> Tensor:
        soft = torch.sigmoid(4 * (u - self.theta))
        return (u >= self.theta).to(u.dtype) + soft - soft.detach()

    def keep(self, u: Tensor, spikes: Tensor) -> Tensor:
        return torch.zeros_like(u)


@pytest.fixture(autouse=True)
def registered() -> None:
    register_neuron("my-threshold", Threshold)


def model_of(**more: Any) -> WDSpikingformerForCausalLM:
    torch.manual_seed(0)
    return WDSpikingformerForCausalLM(WDSpikingformerConfig(**SHAPE, neuron="my-threshold", **more))


def test_it_stands_in_every_place_of_a_model_and_takes_its_options() -> None:
    model = model_of(neuron_options={"theta": 0.75})
    neurons = [m for m in model.modules() if isinstance(m, Neuron)]
    assert {type(m) for m in neurons} == {Threshold}
    assert {m.theta for m in neurons} == {0.75}
    assert len(neurons) == 2 * 6 + 1  # in, q, k, v, MLP in and hidden, and before the head


def test_it_trains_with_the_firing_rate_term(tmp_path: Any) -> None:
    model = model_of()
    ids = torch.randint(0, 31, (4, 12), generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        out = model(input_ids=ids, labels=ids)
        out.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(out.lm_loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert out.rate_loss is not None
    model.eval().save_pretrained(tmp_path)
    again = WDSpikingformerForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(again(input_ids=ids).logits, model(input_ids=ids).logits)


def test_its_energy_is_counted_and_its_spikes_are_audited() -> None:
    model = model_of().eval()
    ids = torch.randint(0, 31, (2, 12), generator=torch.Generator().manual_seed(1))
    energy = energy_of(model, [ids])
    assert 0 < energy.density < 1
    hidden = energy.neurons["model.layers.0.mlp.fire_hidden.neuron"]
    assert (hidden.kind, hidden.mean_count) == ("binary", hidden.density)
    products = audit(model, [ids]).products()
    maps = [row for name, row in products.items() if name.endswith(("up", "down", "query"))]
    assert len(maps) == 6
    assert {row.verdict for row in maps} == {"binary"}


def test_the_engine_says_that_it_does_not_know_it() -> None:
    from spikeformers.export import pack

    with pytest.raises(ConfigError, match="the engine does not know the neuron Threshold"):
        pack(model_of(), None, "fp32")


def test_another_class_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"derived from spikeformers\.neurons\.Neuron"):
        register_neuron("relu", torch.nn.ReLU)  # type: ignore[arg-type]
    assert "relu" not in NEURONS
    with pytest.raises(ConfigError, match=r"neuron='my-treshold'.*Did you mean 'my-threshold'\?"):
        WDSpikingformerConfig(**SHAPE, neuron="my-treshold").validate_architecture()
