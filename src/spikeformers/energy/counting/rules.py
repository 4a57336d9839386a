"""How each kind of module is counted, in closed form; attention is in attention_rules.py.

    linear     SOP = (sum of counts at the input) * outputs;  MACs = rows * inputs * outputs
    conv       SOP = sum over inputs of count * (windows that cover it) * outputs;  MACs = windows
               * their size * inputs * outputs, zeros of the padding included, as papers count them

Elementwise, per value unless said otherwise:

    norm       layer: 4 add, 3 mult; rms: 1 add, 3 mult; and one root per row; batch, with fixed
               statistics: 1 add, 1 mult, which may fold into the weights before it
    neuron     what it says itself (``Neuron.operations``)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spikeformers.energy.counting.operands import Spikes, counts, operand, spikes_of
from spikeformers.energy.counting.rows import Place, Rows
from spikeformers.energy.counting.sizes import weights_of, weights_of_convolution
from spikeformers.energy.counting.trace import Product, State, Synapses, Trace
from spikeformers.neurons import Neuron


def linear(
    trace: Trace, place: Place, rows: Rows, x: Tensor, stated: Spikes | None, weight: Tensor
) -> int:
    """Count ``x W`` (``weight`` ``[in, out]``); returns the MACs that were really dispatched."""
    inputs, outputs = weight.shape
    spikes = spikes_of(x, stated)
    left = operand(rows.select(x), spikes)
    stored = spikes_of(weight)
    right = operand(weight, stored)
    times = left.size // inputs
    sop = 0
    if spikes is not None:
        sop = left.total * outputs
    elif stored is not None:
        sop = right.total * times
    trace.add_product(
        Product(
            place.name, "linear", place.component, place.layer, left, right,
            macs=left.size * outputs, sop=sop,
            weights=weights_of(
                x, rows.shape, rows.keep, weight.numel(), times * outputs, times
            ),
        )
    )  # fmt: skip
    return x.numel() * outputs


def convolution(
    trace: Trace,
    place: Place,
    rows: Rows,
    module: nn.Conv2d,
    x: Tensor,
    stated: Spikes | None,
    out: Tensor,
) -> int:
    """Count a convolution of ``[N, C, H, W]``; returns the MACs that were really dispatched."""
    spikes, stored = spikes_of(x, stated), spikes_of(module.weight)
    macs = out.numel() * (module.weight.numel() // module.weight.shape[0])
    sop = 0
    if spikes is not None or stored is not None:
        # A kernel of ones sums the counts that each window covers; a real operand counts one.
        kernel = counts(module.weight, None if spikes is not None else stored)
        covered = nn.functional.conv2d(
            counts(x, spikes).double(), kernel.double(), None,
            module.stride, module.padding, module.dilation, module.groups,
        )  # fmt: skip
        sop = int(covered.sum())
    trace.add_product(
        Product(
            place.name, "linear", place.component, place.layer,
            operand(x, spikes), operand(module.weight, stored), macs=macs, sop=sop,
            weights=weights_of_convolution(x, rows.shape[0], module, out.numel()),
        )
    )  # fmt: skip
    return macs


def norm(trace: Trace, place: Place, rows: Rows, x: Tensor, kind: str) -> None:
    """Count a layer or RMS norm over the last dimension of ``x``, or a batch norm."""
    x = rows.select(x)
    if kind == "batch":
        trace.add_operations("norms", place.layer, add=x.numel(), mult=x.numel())
        return
    n, rows_ = x.numel(), x.numel() // x.shape[-1]
    adds = 4 * n if kind == "layer" else n
    trace.add_operations("norms", place.layer, add=adds, mult=3 * n, function=rows_)


def neuron(
    trace: Trace, place: Place, rows: Rows, module: Neuron, current: Tensor, spikes: Tensor
) -> Spikes:
    """Count a neuron's spikes and updates; returns their kind and unit."""
    steps = current.shape[0]
    n = rows.select(current).numel()
    trace.add_operations("neurons", place.layer, **module.operations(n, steps))
    trace.add_state(place.name, State(place.layer, n // steps * (steps - 1), steps))
    kind = spikes_by(module)
    trace.add_neuron(place.name, operand(rows.select(spikes), kind))
    for population, own in module.populations(spikes).items():
        trace.add_population(f"{place.name}.{population}", operand(rows.select(own), kind))
    return kind


def spikes_by(module: Neuron) -> Spikes:
    """Kind and unit of the spikes that a neuron emits, as it states them."""
    if module.expanded:
        return Spikes("binary", 1.0)
    return Spikes(
        module.spike_type, module.unit, module.weighted, module.planes, module.value_per_token
    )


def norm_kind(module: nn.Module) -> str | None:
    """Which norm this is: "layer", "rms", "batch" (with fixed statistics) or None."""
    if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
        return "batch" if module.track_running_stats else None
    if isinstance(module, nn.LayerNorm):
        return "layer"
    name = type(module).__name__
    if isinstance(module, nn.RMSNorm) or name.endswith("RMSNorm"):
        return "rms"
    return "layer" if name.endswith("LayerNorm") else None


def synapses_of_linear(rows: Rows, x: Tensor, stated: Spikes | None, weight: Tensor) -> Synapses:
    """Of ``x W`` with ``weight`` ``[in, out]``; ``stated`` by the neuron that made ``x``."""
    inputs, outputs = weight.shape
    spikes = spikes_of(x, stated)
    x = rows.select(x)
    events = _events(x, spikes).reshape(-1, inputs).sum(0, dtype=torch.float64)
    met = (weight != 0).sum(1).double()
    return Synapses(spikes is not None, int(events @ met), x.numel() * outputs)


def synapses_of_convolution(x: Tensor, stated: Spikes | None, module: nn.Conv2d) -> Synapses:
    """Of ``[N, C, H, W]``: a kernel of ones sums what each window covers."""
    spikes = spikes_of(x, stated)

    def covered(x: Tensor, kernel: Tensor) -> int:
        sums = nn.functional.conv2d(
            x.double(), kernel.double(), None,
            module.stride, module.padding, module.dilation, module.groups,
        )  # fmt: skip
        return int(sums.sum())

    effective = covered(_events(x, spikes), module.weight != 0)
    dense = covered(torch.ones_like(x[:1]), torch.ones_like(module.weight)) * len(x)
    return Synapses(spikes is not None, effective, dense)


def _events(x: Tensor, spikes: Spikes | None) -> Tensor:
    """Counts of spikes; of real numbers, which of them are not zero."""
    return (x != 0).float() if spikes is None else counts(x, spikes)
