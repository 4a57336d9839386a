"""NeuroBench's metrics (https://arxiv.org/abs/2304.04640), computed from the tracer's counts.

    footprint             bytes of parameters and buffers
    connection_sparsity   share of zeros among the weights of linear maps and convolutions
    activation_sparsity   share of zeros among the outputs of neurons, ReLU and sigmoid
    synaptic_operations   per sample (a sequence or an image), summed over steps:
        Effective_ACs     non-zero inputs times non-zero weights, of layers fed with spikes
        Effective_MACs    the same of all other layers
        Dense             all inputs times all weights; none of the three counts biases

Names and definitions are those of the package ``neurobench`` 2.3 (its metrics by name), which
counts Linear, Conv1d, Conv2d and Conv3d; Transformers' Conv1D (GPT-2) is counted here too. Differs:

- NeuroBench takes an input to be spikes where all its values are 0, 1 or -1. Here spikes may be
  multiples of another unit, and an integer count c is c accumulates (NeuroBench: one MAC).
- Padding and masked attention weights are left out.
- ``attention_operations`` is our own: products of attention, which NeuroBench does not count.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from spikeformers.energy.counting.forward_pass import trace
from spikeformers.energy.counting.operands import Batch
from spikeformers.energy.counting.trace import Operand, Product, Synapses
from spikeformers.errors import DataError

_CONNECTIONS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, Conv1D)
_ACTIVATIONS = (nn.ReLU, nn.Sigmoid)


def neurobench_metrics(model: nn.Module, batches: Iterable[Batch]) -> dict[str, Any]:
    """Metrics of ``model`` on ``batches`` (as for ``energy_of``), plain values for JSON.

    Raises DataError without a sample, SpikeformersError for a product that cannot be attributed.
    """
    samples = 0
    linear: list[Synapses] = []
    attention: list[Product] = []
    activations: list[Operand] = []
    with _watched(model, activations):
        for batch in batches:
            samples += _samples(batch)
            counted = trace(model, batch)
            linear += counted.synapses
            products = counted.products.values()
            attention += (product for product in products if product.role != "linear")
            activations += counted.neurons.values()
    if samples == 0:
        raise DataError("there is no sample to measure on: give at least one batch.")
    size = sum(output.size for output in activations)
    silent = size - sum(output.nonzero for output in activations)
    return {
        "footprint": sum(x.nbytes for x in (*model.parameters(), *model.buffers())),
        "connection_sparsity": _connection_sparsity(model),
        "activation_sparsity": silent / size if size else 0.0,
        "synaptic_operations": _operations(linear, samples),
        "attention_operations": _operations(
            [
                Synapses(
                    product.spiking, product.sop if product.spiking else product.macs, product.macs
                )
                for product in attention
            ],
            samples,
        ),
    }


def _operations(counted: list[Synapses], samples: int) -> dict[str, float]:
    """Sums per sample."""
    return {
        "Effective_MACs": sum(layer.effective for layer in counted if not layer.spiking) / samples,
        "Effective_ACs": sum(layer.effective for layer in counted if layer.spiking) / samples,
        "Dense": sum(layer.dense for layer in counted) / samples,
    }


def _samples(batch: Batch) -> int:
    if isinstance(batch, Tensor):
        return len(batch)
    return len(batch["pixel_values" if "pixel_values" in batch else "input_ids"])


def _connection_sparsity(model: nn.Module) -> float:
    """Rounded to four decimals, as in NeuroBench; 0 for a model without such layers."""
    weights: list[Any] = [m.weight for m in model.modules() if isinstance(m, _CONNECTIONS)]
    number = sum(weight.numel() for weight in weights)
    nonzero = sum(int(torch.count_nonzero(weight)) for weight in weights)
    return round((number - nonzero) / number, 4) if number else 0.0


def _watched(model: nn.Module, outputs: list[Operand]) -> ExitStack:
    """Record the outputs of ReLU and sigmoid modules until the stack is closed."""
    stack = ExitStack()

    def hook(module: nn.Module, args: Any, output: Tensor) -> None:
        outputs.append(Operand("real", output.numel(), int(torch.count_nonzero(output)), 0))

    for module in model.modules():
        if isinstance(module, _ACTIVATIONS):
            stack.callback(module.register_forward_hook(hook).remove)
    return stack
