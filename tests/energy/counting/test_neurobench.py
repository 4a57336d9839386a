"""NeuroBench's metrics: one network by hand, and several beside the package itself.

The package is skipped where it is not installed; docs/measured.md says how to run it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spikeformers.energy import neurobench_metrics
from spikeformers.errors import DataError
from spikeformers.neurons import LIF, Neuron


class Net(nn.Module):
    """Linear, LIF over ``steps``, linear, mean over the steps."""

    def __init__(self, sizes: tuple[int, int, int], steps: int) -> None:
        super().__init__()
        self.up = nn.Linear(sizes[0], sizes[1], bias=False)
        self.fire = LIF(decay=0.5, threshold=1.0)
        self.down = nn.Linear(sizes[1], sizes[2])
        self.steps = steps

    def forward(self, pixel_values: Tensor) -> Tensor:
        current = self.up(pixel_values)
        return self.down(self.fire(current.expand(self.steps, *current.shape))).mean(0)


class ConvNet(nn.Module):
    """Convolution with padding, LIF, convolution with a stride, ReLU, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(2, 4, 3, padding=1)
        self.fire = LIF(decay=0.5, threshold=0.3)
        self.two = nn.Conv2d(4, 3, 2, stride=2, bias=False)
        self.relu = nn.ReLU()
        self.head = nn.Linear(12, 5)

    def forward(self, pixel_values: Tensor) -> Tensor:
        spikes = self.fire(self.one(pixel_values).expand(2, -1, -1, -1, -1))
        out = self.relu(self.two(spikes.flatten(0, 1)))
        return self.head(out.flatten(1).unflatten(0, (2, -1)).mean(0))


class Logits(nn.Module):
    """A language model as NeuroBench calls one."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.model(input_ids=input_ids, use_cache=False).logits


def small() -> tuple[Net, Tensor]:
    net = Net((3, 2, 3), steps=2)
    with torch.no_grad():
        net.up.weight.copy_(torch.tensor([[1.0, 0.0, 2.0], [0.3, 0.6, 0.0]]))
        net.down.weight.copy_(torch.tensor([[1.0, 1.0], [0.0, 1.0], [0.5, 0.2]]))
        net.down.bias.zero_()
    return net, torch.tensor([[1.5, 0.0, 0.37], [0.0, 0.91, 1.13]])


def test_by_hand():
    net, x = small()
    result = neurobench_metrics(net, [{"pixel_values": x}])
    # currents [2.24, 0.45] and [2.26, 0.546]: one neuron fires at both steps, the other never
    assert result["footprint"] == 4 * (6 + 6 + 3)
    assert result["connection_sparsity"] == 3 / 12
    assert result["activation_sparsity"] == 4 / 8
    # non-zero inputs 0 and 2 meet 2 + 1 weights, 1 and 2 meet 1 + 1; four spikes meet 2 each
    assert result["synaptic_operations"] == {
        "Effective_MACs": (3 + 2) / 2,
        "Effective_ACs": 4 * 2 / 2,
        "Dense": 6 + 2 * 6,
    }
    assert result["attention_operations"]["Dense"] == 0
    twice = neurobench_metrics(net, [{"pixel_values": x[:1]}, {"pixel_values": x[1:]}])
    assert twice == result


def test_a_dense_model_and_a_language_model(spiking, dense, ids):
    twin = neurobench_metrics(dense(), [ids])
    assert twin["synaptic_operations"]["Effective_ACs"] == 0
    assert twin["synaptic_operations"]["Dense"] == twin["synaptic_operations"]["Effective_MACs"]
    # 2 layers, 7 tokens: 4 * 16^2 and 2 * 16 * 32 weights per token, and a head of 16 x 50
    assert twin["synaptic_operations"]["Dense"] == 7 * (2 * (4 * 256 + 2 * 16 * 32) + 800)
    assert twin["attention_operations"]["Dense"] == 2 * 28 * 2 * 16  # 28 allowed pairs
    result = neurobench_metrics(spiking(), [ids])
    assert result["synaptic_operations"]["Effective_ACs"] > 0
    # the head alone is not fed with spikes
    assert result["synaptic_operations"]["Effective_MACs"] == 7 * 800
    assert 0 < result["activation_sparsity"] < 1


def waves(*shape: int) -> Tensor:
    """Reals of no common unit, every third of them 0."""
    number = torch.arange(math.prod(shape), dtype=torch.float32)
    return (torch.sin(number) * (number % 3 != 0)).reshape(shape)


def waving() -> tuple[ConvNet, Tensor]:
    net = ConvNet()
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(waves(*weight.shape))
    return net, waves(6, 2, 4, 4)


RECORDED = {  # neurobench 2.3.0 on ``waving``, batches of 2
    "footprint": 756,
    "connection_sparsity": 0.3333,
    "activation_sparsity": 0.4583333333,
    "synaptic_operations": {
        "Effective_MACs": 2335 / 6,
        "Effective_ACs": 143.0,
        "Dense": 1244.0,
    },
}


def test_recorded_results_of_the_package_for_a_convolutional_network():
    net, x = waving()
    result = neurobench_metrics(net, [{"pixel_values": part} for part in x.split(2)])
    agrees(result, RECORDED)


def test_nothing_to_measure(spiking):
    with pytest.raises(DataError, match="no sample"):
        neurobench_metrics(spiking(), [])


def by_the_package(net: nn.Module, x: Tensor, batch: int) -> dict[str, Any]:
    """What NeuroBench says of the same network."""
    pytest.importorskip("neurobench")
    from neurobench.benchmarks import Benchmark
    from neurobench.metrics.static import ConnectionSparsity, Footprint
    from neurobench.metrics.workload import ActivationSparsity, SynapticOperations
    from neurobench.models import TorchModel
    from torch.utils.data import DataLoader, TensorDataset

    model = TorchModel(net)
    model.add_activation_module(Neuron)
    data = DataLoader(TensorDataset(x, torch.zeros(len(x))), batch_size=batch)
    metrics = [[Footprint, ConnectionSparsity], [ActivationSparsity, SynapticOperations]]
    with torch.no_grad():
        result = Benchmark(model, data, [], [], metrics).run(quiet=True)
    return {
        "footprint": result["Footprint"],
        "connection_sparsity": result["ConnectionSparsity"],
        "activation_sparsity": result["ActivationSparsity"],
        "synaptic_operations": result["SynapticOperations"],
    }


def agrees(metrics: dict[str, Any], other: dict[str, Any]) -> None:
    for key in ("footprint", "connection_sparsity", "synaptic_operations"):
        assert metrics[key] == other[key], key
    assert metrics["activation_sparsity"] == pytest.approx(other["activation_sparsity"])


def test_the_package_agrees_on_the_small_networks():
    net, x = small()
    agrees(neurobench_metrics(net, [{"pixel_values": x}]), by_the_package(net, x, batch=2))
    agrees(RECORDED, by_the_package(*waving(), batch=2))


@pytest.mark.parametrize("make", [lambda: Net((20, 30, 7), steps=4), ConvNet])
def test_the_package_agrees_on_random_networks(make: Callable[[], nn.Module]):
    torch.manual_seed(1)
    net = make()
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(3).masked_fill_(torch.rand_like(weight) < 0.2, 0)
    x = torch.rand(6, 2, 4, 4) if isinstance(net, ConvNet) else torch.randn(6, 20)
    x[torch.rand_like(x) < 0.3] = 0
    result = neurobench_metrics(net, [{"pixel_values": part} for part in x.split(2)])
    agrees(result, by_the_package(net, x, batch=2))
    assert 0 < result["activation_sparsity"] < 1


@pytest.mark.parametrize("steps", [1, 3])
def test_the_package_agrees_on_a_language_model(spiking, ids, steps):
    model = Logits(spiking(neuron="lif", steps=steps, spiking_head=True))
    result = neurobench_metrics(model, [ids])
    agrees(result, by_the_package(model, ids, batch=2))
    assert result["synaptic_operations"]["Effective_ACs"] > 0
