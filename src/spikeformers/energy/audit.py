"""Which operands meet in the matrix products of a real forward pass.

The claim to check: inside the blocks every product has spikes on one side, so that an adder does
it. The tracer sees functional calls too, and refuses a product that it cannot attribute.
"""

from __future__ import annotations

from torch import nn

from spikeformers.energy.records import Product
from spikeformers.energy.trace import Batch, trace


def operands_of(model: nn.Module, batch: Batch, *, blocks_only: bool = True) -> list[Product]:
    """Every matrix product of one forward pass, with its operands; by default of the blocks."""
    found = trace(model, batch).products.values()
    return [product for product in found if product.layer is not None or not blocks_only]


def without_spikes(products: list[Product]) -> list[str]:
    """Names of the products that have real numbers on both sides."""
    return [product.name for product in products if not product.spiking]
