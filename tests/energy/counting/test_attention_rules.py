"""Attention is counted by what its core says of itself, whoever wrote the core."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from spikeformers.attention import A2OS2A, SFSA, WTA, Attention
from spikeformers.attention.a2os2a import BLOCK
from spikeformers.energy import audit, trace
from spikeformers.energy.counting import rules
from spikeformers.energy.counting.operands import Place, Rows
from spikeformers.energy.counting.trace import Trace
from spikeformers.neurons import LIF, TLIF, Neuron

CAUSAL = torch.ones(3, 3, dtype=torch.bool).tril()


class NearestKey(Attention):
    """A core of nobody's: a query reads the last key it may see, after a comparison per pair."""

    weights_are_binary = True
    reads_per_query = 1

    def weights(self, q: Tensor, k: Tensor, allowed: Tensor, bias: Tensor | None) -> Tensor:
        newest = allowed & ~allowed.roll(-1, -1).tril(-1)
        return (newest & (self.scores(q, k, bias) > -1)).to(q.dtype)

    def operations(self, pairs: Tensor) -> dict[str, int]:
        return {"compare": int(pairs.sum())}


class EdgeNeuron(Attention):
    """Ternary edges, fired by a neuron inside the core."""

    weights_are_fired = True

    def __init__(self, neuron: Neuron) -> None:
        super().__init__()
        self.neuron = neuron

    def weights(self, q: Tensor, k: Tensor, allowed: Tensor, bias: Tensor | None) -> Tensor:
        edges: Tensor = self.neuron(self.scores(q, k, bias) * allowed)
        return edges


class OutputNeuron(NearestKey):
    """A neuron inside the core that fires the output, not the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.neuron = LIF()

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        fired: Tensor = self.neuron(super().forward(q, k, v, allowed, bias))
        return fired


class Mixer(nn.Module):
    """Q, K and V of a width of 4 into a core; its class name says nothing of attention."""

    def __init__(self, core: Attention) -> None:
        super().__init__()
        self.query, self.fire, self.core = nn.Linear(4, 4), LIF(), core

    def forward(self, x: Tensor) -> Tensor:
        spikes = self.fire(self.query(x)[None])[:, :, None]  # [S, B, H, T, K]
        y: Tensor = self.core(spikes, spikes, spikes, CAUSAL)
        return y.mean(0)[:, 0]


class Model(nn.Module):
    """An embedding and one mixer in a block."""

    def __init__(self, core: Attention) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.layers = nn.Embedding(5, 4), nn.ModuleList([Mixer(core)])

    def forward(self, input_ids: Tensor) -> Tensor:
        y: Tensor = self.layers[0](self.embed(input_ids))
        return y


IDS = torch.tensor([[0, 1, 2]])
COMPONENT = "attention scores and values"


def test_a_foreign_core_is_counted_by_its_statements() -> None:
    counted = trace(Model(NearestKey()), IDS)
    values = counted.products["layers.0.core.values"]
    assert (values.left.nonzero, values.left.size) == (3, 6)
    assert values.attending is not None
    assert (values.attending.reads_per_query, values.attending.weights_are_fired) == (1, False)
    assert dict(counted.operations[COMPONENT, 0])["compare"] == 6
    assert dict(counted.pair_operations[COMPONENT, 0]) == {"compare": 6}


def test_a_module_with_a_core_is_attention_whatever_its_name() -> None:
    counted = trace(Model(NearestKey()), IDS)
    assert counted.products["layers.0.query"].component == "attention projections"


def test_a_neuron_on_the_edges_is_counted_by_its_own_operations() -> None:
    counted = trace(Model(EdgeNeuron(TLIF())), IDS)
    assert dict(counted.pair_operations["neurons", 0]) == {"compare": 2 * 6}  # two thresholds
    assert counted.neurons["layers.0.core.neuron"].size == 6
    values = counted.products["layers.0.core.values"]
    assert values.attending is not None
    assert values.attending.weights_are_fired


def test_a_neuron_on_the_output_is_not_an_edge() -> None:
    counted = trace(Model(OutputNeuron()), IDS)
    assert ("neurons", 0) not in counted.pair_operations
    assert counted.neurons["layers.0.core.neuron"].size == 3 * 4


def test_an_audit_gives_a_foreign_core_its_roles() -> None:
    products = audit(Model(NearestKey()), [IDS]).products()
    assert list(products) == ["layers.0.query", "layers.0.core.scores", "layers.0.core.values"]


@pytest.mark.parametrize("tokens", [1, BLOCK, BLOCK + 3])
@pytest.mark.parametrize("causal", [True, False])
def test_the_state_states_its_macs(tokens: int, causal: bool) -> None:
    q = torch.ones(2, 1, 1, tokens, 4)
    core = A2OS2A("state", causal)
    assert core.keeps_state
    if not causal:
        assert core.state_macs(q) == 2 * (2 * tokens * 4 * 4)
        return
    first, rest = min(tokens, BLOCK), max(0, tokens - BLOCK)
    scores = 2 * 4 * (first**2 + rest**2)
    assert core.state_macs(q) == 2 * (scores + first * 16 + 2 * rest * 16)


def test_a_core_without_a_state_has_no_macs_of_one() -> None:
    with pytest.raises(TypeError, match="WTA keeps no state"):
        WTA(1.0).state_macs(torch.ones(1, 1, 1, 2, 4))


def test_fired_weights_of_sfsa_follow_the_spikes() -> None:
    counted, rows = Trace(), Rows(1, 3, None)
    q = torch.ones(1, 1, 1, 3, 2)
    core = SFSA(LIF())
    weights = core.weights(q, q, CAUSAL, None)
    place = Place("here", COMPONENT, 0)
    rules.attention(counted, place, rows, (q, q, q), (None,) * 3, CAUSAL, weights, core)
    attending = counted.products["here.values"].attending
    assert attending is not None
    assert attending.weights_are_fired
    assert attending.reads_per_query is None
