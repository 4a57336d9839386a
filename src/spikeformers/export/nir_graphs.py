"""From a chain of modules to NIR graphs: one per stretch that NIR can say.

    linear, BatchNorm            Affine, the norm's statistics folded into it
    convolution, BatchNorm       Conv2d
    LIF, hard reset              LIF with tau = dt / (1 - decay), r = 1 and weights times tau / dt
    any neuron of a single step  LIF with tau = dt, which forgets at once
    integer counts 0..D          D binary units side by side; the value of a spike is folded into
                                 the weights that follow, whose columns are repeated
    max pool of spikes           Conv2d that sums each channel, and a unit that fires if any is 1

snnTorch's and Norse's importers read all of these alike with dt = 1e-4. Thresholds are one number
per layer, as snnTorch requires: those of an integer's units are moved into the bias.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spikeformers.errors import ConfigError
from spikeformers.export.nir_chains import Chain, Link
from spikeformers.layers import BatchNorm
from spikeformers.neurons import BinaryUnits, Neuron

DT = 1e-4
"""Seconds per simulation step: the one that snnTorch's importer assumes."""
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Row:
    """One module of the coverage list."""

    module: str
    kind: str
    file: str
    """The file that has it; empty if NIR cannot say it."""
    reason: str = ""


@dataclass
class Graph:
    """A stretch of a chain: nodes in order, as NIR's constructor takes them."""

    name: str
    shape: tuple[int, ...]
    """Of the input."""
    modules: list[Link] = field(default_factory=list)
    nodes: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """Class of the node, and its arguments."""
    out: tuple[int, ...] = ()
    levels: int = 1
    """Binary units per value of the output."""
    unit: float = 1.0
    """Value of one spike of the output; the numbers that leave a linear map have unit 1."""


@dataclass
class _Map:
    """A linear map or a convolution whose node is not written yet."""

    weight: Tensor
    bias: Tensor
    link: Link


class ChainWriter:
    """Splits a chain into graphs and rows of the coverage list."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.graphs: list[Graph] = []
        self.rows: list[Row] = []
        self._graph: Graph | None = None
        self._map: _Map | None = None
        for link in chain.links:
            self._add(link)
        self._close()

    def _add(self, link: Link) -> None:
        module = link.module
        if isinstance(module, nn.Identity):
            return
        if isinstance(module, Neuron):
            self._neuron(link, module)
        elif isinstance(module, (nn.Linear, nn.Conv2d)):
            self._flush()
            bias = module.bias if module.bias is not None else torch.zeros(len(module.weight))
            self._map = _Map(module.weight.detach().double(), bias.detach().double(), link)
            self._keep(link)
        elif isinstance(module, BatchNorm) and self._map is not None:
            self._fold(module)
            self._keep(link)
        elif isinstance(module, nn.MaxPool2d) and self._reads_spikes():
            self._pool(link, module)
        else:
            self._refuse(link, reason_of(module))

    def _reads_spikes(self) -> bool:
        return self._map is None and self._graph is not None and bool(self._graph.nodes)

    def _fold(self, norm: BatchNorm) -> None:
        assert self._map is not None
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None
        assert variance is not None
        scale = norm.weight.detach().double() / (variance.double() + norm.eps).sqrt()
        self._map.weight = self._map.weight * scale.view(-1, *[1] * (self._map.weight.dim() - 1))
        self._map.bias = (self._map.bias - mean.double()) * scale + norm.bias.detach().double()

    def _neuron(self, link: Link, neuron: Neuron) -> None:
        try:
            units = neuron.binary_units(link.steps)
        except ConfigError as error:
            self._refuse(link, str(error))
            return
        if self._map is None and not (self._graph is None or self._graph.nodes == []):
            self._close()  # a neuron after a neuron, whose input is not a sum
        if self._map is None:
            self._map = _scaling(link)
        self._keep(link)
        self._flush(units)
        self._units(units)

    def _flush(self, units: BinaryUnits | None = None) -> None:
        """Write the waiting map, prepared for the neuron ``units`` that reads it."""
        pending, self._map = self._map, None
        if pending is None:
            return
        graph = self._opened(pending.link)
        weight, bias = pending.weight * graph.unit, pending.bias
        if graph.levels > 1:
            weight = torch.cat([weight] * graph.levels, 1)
        if units is not None:
            gain = 1 / (1 - units.decay) if units.decay < 1 else 1.0
            weight, bias = weight * gain, bias * gain
            if (count := len(units.thresholds)) > 1:
                shifts = [1 - threshold for threshold in units.thresholds]
                weight = torch.cat([weight] * count)
                bias = torch.cat([bias + shift for shift in shifts])
        graph.levels, graph.unit = 1, 1.0
        if weight.dim() == 2:
            graph.nodes.append(("Affine", {"weight": _array(weight), "bias": _array(bias)}))
            graph.out = (len(weight),)
            return
        self._convolve(pending, weight, bias)

    def _convolve(self, pending: _Map, weight: Tensor, bias: Tensor) -> None:
        graph, conv = self._opened(pending.link), pending.link.module
        place: dict[str, Any] = {"stride": 1, "padding": 0, "dilation": 1}
        if isinstance(conv, nn.Conv2d):
            place = {key: getattr(conv, key) for key in place}
        self._convolution(graph, pending.link.shape[1:], weight, bias, place)

    def _convolution(
        self,
        graph: Graph,
        size: tuple[int, ...],
        weight: Tensor,
        bias: Tensor,
        place: dict[str, Any],
    ) -> None:
        values = {"weight": _array(weight), "bias": _array(bias), "groups": 1}
        graph.nodes.append(("Conv2d", {"input_shape": size} | values | place))
        graph.out = (len(weight), *_size(size, weight.shape[2:], place))

    def _units(self, units: BinaryUnits) -> None:
        graph = self._graph
        assert graph is not None
        count = len(units.thresholds)
        threshold = units.thresholds[0] if count == 1 else 1.0
        graph.nodes.append(_node_of(graph.out, units.decay, threshold))
        graph.levels, graph.unit = count, units.unit

    def _pool(self, link: Link, pool: nn.MaxPool2d) -> None:
        graph = self._opened(link)
        channels, *size = link.shape
        kernel = (pool.kernel_size,) * 2 if isinstance(pool.kernel_size, int) else pool.kernel_size
        place = {"stride": pool.stride, "padding": pool.padding, "dilation": pool.dilation}
        # Not in groups: NIR takes the weight's second axis as the channels of the input.
        sums = torch.eye(channels).view(channels, channels, 1, 1).expand(-1, -1, *kernel)
        self._convolution(graph, tuple(size), sums, torch.zeros(channels), place)
        graph.nodes.append(_node_of(graph.out, 0.0, 0.5))
        self._keep(link)

    def _opened(self, link: Link) -> Graph:
        if self._graph is None:
            self._graph = Graph(self._name(), link.shape)
        return self._graph

    def _name(self) -> str:
        return self.chain.name if not self.graphs else f"{self.chain.name}-{len(self.graphs) + 1}"

    def _keep(self, link: Link) -> None:
        self._opened(link).modules.append(link)

    def _refuse(self, link: Link, reason: str) -> None:
        self._close()
        self.rows.append(Row(link.name, kind_of(link.module), "", reason))

    def _close(self) -> None:
        """End the graph; the next module begins another one."""
        self._flush()
        graph, self._graph = self._graph, None
        if graph is None:
            return
        self.graphs.append(graph)
        self.rows += [
            Row(link.name, kind_of(link.module), f"{graph.name}.nir") for link in graph.modules
        ]


_STATISTIC = "a norm divides by a statistic of its input, and NIR has no division."
_REASONS = {
    "LayerNorm": _STATISTIC,
    "RMSNorm": _STATISTIC,
    "BatchNorm": "there is no linear map before it that it could be folded into.",
    "MaxPool2d": "its input is real numbers, and NIR pools by sums and means.",
    "TokenShift": "half of its output is the token before, and NIR has no sequence of tokens.",
    "Rectifier": "NIR has no rectifier.",
}


def reason_of(module: nn.Module) -> str:
    """Why a module is in no file."""
    return _REASONS.get(kind_of(module), "it is not in a sequence of maps and neurons.")


def kind_of(module: nn.Module) -> str:
    """The name of a module's class."""
    return type(module).__name__


def _scaling(link: Link) -> _Map:
    """A map that leaves the current of a neuron at the beginning of a graph as it is."""
    if len(link.shape) == 1:
        (width,) = link.shape
        return _Map(torch.eye(width).double(), torch.zeros(width).double(), link)
    channels = link.shape[0]
    same = torch.eye(channels).view(channels, channels, 1, 1).double()
    return _Map(same, torch.zeros(channels).double(), link)


def _node_of(shape: tuple[int, ...], decay: float, threshold: float) -> tuple[str, dict[str, Any]]:
    full = np.full(shape, 1, np.float32)
    common = {"r": full, "v_threshold": full * np.float32(threshold), "v_reset": full * 0}
    if decay >= 1:
        return "IF", common
    return "LIF", common | {"tau": full * np.float32(DT / (1 - decay)), "v_leak": full * 0}


def _array(tensor: Tensor) -> Array:
    values: Array = tensor.float().cpu().contiguous().numpy().copy()
    return values


def _size(size: tuple[int, ...], kernel: Any, place: dict[str, Any]) -> tuple[int, ...]:
    def at(key: str, axis: int) -> int:
        value = place[key]
        return int(value if isinstance(value, int) else value[axis])

    return tuple(
        (size[i] + 2 * at("padding", i) - at("dilation", i) * (int(kernel[i]) - 1) - 1)
        // at("stride", i)
        + 1
        for i in range(2)
    )
