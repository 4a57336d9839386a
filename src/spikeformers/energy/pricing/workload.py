"""The work of a machine per token of a traced run: operations by type, bits by memory.

``work_of`` turns counts into work items: numbers of operations by kind and type, and of bits by
store, which any price table can price (ledger.py). There are four phases:

    decode    a single token after ``context - 1`` others
    prefill   a prompt of ``context`` tokens in tiles, per token; the head once per prompt
    pass      a bidirectional model over ``context`` tokens, per token
    image     one image

Weights    read once per tile, and only if their input is not zero everywhere in it (measured);
           each further use in the tile is a read from a register
Activations  each input of a product is written once and read once, spikes as bit planes, and so
           is each output; each residual addition reads and writes the stream
Cache      keys and values (attention_workload.py)
Steps      a layer runs all its simulation steps before the next layer, so the steps share one read
           of the weights; a membrane is read from and written to a register at each step that it
           is carried into
Free       running sums, which stay in the adder; scores, which are used immediately; code

``spikes`` scales the events: every neuron layer fires this many times as much, up to a density of
1. Tiles scale like independent events: n tokens need a share 1 - (1 - p)^n of the inputs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from spikeformers.energy.counting.sizes import LARGEST_TILE
from spikeformers.energy.counting.trace import Operand, Product, Trace
from spikeformers.energy.pricing.attention_workload import attention_work, pairs_per_query
from spikeformers.energy.pricing.work_items import (
    BITS,
    ELEMENTWISE,
    STATE,
    Phase,
    Precision,
    WorkItem,
    compute,
    limited,
    traffic,
)

Counts = Literal["additions", "multiplication"]
_KINDS = {"mult": "multiply", "winner_compare": "compare"}


@dataclass(frozen=True)
class Assumptions:
    """Assumptions of the estimate that a reader may want to change."""

    tile: int = LARGEST_TILE
    """Tokens of a prompt that share one read of the weights, and of keys and values."""
    counts: Counts = "additions"
    """How an integer count is applied to a weight: as repeated additions, or one multiplication."""
    sparse: float = 1.0
    """Cost per bit if only some inputs' weights are read, relative to a sequential read."""


def phases_of(trace: Trace, causal: bool, contexts: Iterable[int], tile: int) -> list[Phase]:
    """The phases of a model: decode and prefill, pass, or image."""
    if trace.unit == "image":
        return [Phase("image", trace.window, 1)]
    most = 1 << (max(1, min(tile, trace.window)).bit_length() - 1)  # what was measured
    names: tuple[Literal["decode", "prefill", "pass"], ...] = (
        ("decode", "prefill") if causal else ("pass",)
    )
    return [
        Phase(name, context, 1 if name == "decode" else min(most, context))
        for name in names
        for context in contexts
    ]


def work_of(
    trace: Trace,
    precision: Precision,
    phase: Phase,
    *,
    spikes: float = 1.0,
    assumptions: Assumptions | None = None,
) -> list[WorkItem]:
    """All work items of one token."""
    assumptions = assumptions or Assumptions()
    items: list[WorkItem] = []
    for product in trace.products.values():
        if product.weights is not None:
            items += _linear(product, trace, precision, phase, spikes, assumptions)
    items += attention_work(trace, precision, phase, spikes)
    items += _elementwise(trace, precision, phase)
    items += _states(trace, phase)
    other_bits = trace.other_parameters * BITS[precision.other]
    stored = stored_bits(trace, precision)
    items += traffic(
        "other", None, "norms and biases", "weights", read=other_bits / phase.tile, of=stored
    )
    return [item for item in items if item.amount]


def stored_bits(trace: Trace, precision: Precision) -> float:
    """Bits of all parameters."""
    weights_held = trace.parameters - trace.other_parameters
    return weights_held * BITS[precision.weight] + trace.other_parameters * BITS[precision.other]


def _linear(
    product: Product,
    trace: Trace,
    precision: Precision,
    phase: Phase,
    spikes: float,
    assumptions: Assumptions,
) -> Iterator[WorkItem]:
    weights, left = product.weights, product.left
    assert weights is not None
    place = (product.component, product.layer, product.name)
    once = product.component == "head" and phase.name == "prefill"
    each = 1 / trace.tokens / (phase.context if once else 1)
    width = BITS[precision.weight]
    fan = product.macs / left.size if left.size else 0.0
    needed, uses = 1.0, product.macs * each
    tile = max(n for n in weights.tiles if n <= (1 if once else phase.tile))
    if left.is_spikes:
        event_factor = limited(spikes, left.density)
        touched_share = weights.touched[tile] / max(1, weights.tiles[tile] * weights.inputs)
        needed = union(touched_share, tile * weights.steps, event_factor)
        uses = left.nonzero * fan * event_factor * each
        if left.kind == "integer" and assumptions.counts == "multiplication":
            yield compute(*place, "multiply", precision.weight, uses)
            yield compute(*place, "add", precision.accumulator, uses)
        else:
            yield compute(*place, "add", precision.accumulator, product.sop * event_factor * each)
    elif product.right.is_spikes:  # stored weights of few values
        width = product.right.planes
        yield compute(*place, "add", precision.accumulator, product.sop * each)
    else:
        yield compute(*place, "multiply", precision.weight, uses)
        yield compute(*place, "add", precision.accumulator, uses)
    fetched = weights.stored * needed / tile / (phase.context if once else 1)
    dearer = assumptions.sparse if needed < 1 else 1.0
    yield from traffic(
        *place, "weights", read=fetched * width * dearer, of=stored_bits(trace, precision)
    )
    yield from traffic(*place, "register", read=max(0.0, uses - fetched) * width, of=0)
    outputs = weights.outputs * each
    if precision.quantised:
        yield compute(*place, "multiply", ELEMENTWISE, outputs)
        if not left.is_spikes:
            yield compute(*place, "multiply", ELEMENTWISE, left.size * each)
            yield compute(*place, "compare", ELEMENTWISE, left.size * each)
    entering = left.size * each * input_bits(left, precision)
    leaving = outputs * BITS[precision.stream]
    for bits in (entering, leaving):
        size = bits * tile * (phase.context if once else 1)
        yield from traffic(*place, "activations", read=bits, write=bits, of=size)


def input_bits(entering: Operand, precision: Precision) -> int:
    """Bits of one input of a product."""
    if entering.is_spikes:
        return entering.planes
    return BITS[precision.weight if precision.quantised else precision.stream]


def union(share: float, tokens: int, times: float) -> float:
    """Share of inputs that any of ``tokens`` needs when each fires ``times`` as often."""
    if times == 1.0:
        return share
    per_token = 1 - (1 - min(share, 1.0)) ** (1 / tokens)
    return 1 - (1 - min(1.0, per_token * times)) ** tokens


def _elementwise(trace: Trace, precision: Precision, phase: Phase) -> Iterator[WorkItem]:
    stored = stored_bits(trace, precision)
    grow = pairs_per_query(trace, phase)
    for (component, layer), counts in trace.operations.items():
        once = component == "head" and phase.name == "prefill"
        each = 1 / trace.tokens / (phase.context if once else 1)
        paired: Counter[str] = trace.pair_operations.get((component, layer), Counter())
        for kind, n in counts.items():
            amount = (n + paired.get(kind, 0) * (grow - 1)) * each
            if kind == "lookup":
                bits = amount * BITS[precision.weight]
                yield from traffic(component, layer, component, "weights", read=bits, of=stored)
            else:
                priced_as = _KINDS.get(kind, kind)
                yield compute(component, layer, component, priced_as, ELEMENTWISE, amount)
            if component == "residual":
                bits = amount * BITS[precision.stream]
                yield from traffic(
                    component, layer, component, "activations",
                    read=bits, write=bits, of=bits * phase.tile,
                )  # fmt: skip


def _states(trace: Trace, phase: Phase) -> Iterator[WorkItem]:
    for name, state in trace.states.items():
        grow = pairs_per_query(trace, phase) if state.pairs else 1.0
        bits = state.updates * grow / trace.tokens * BITS[STATE]
        size = bits / max(1, state.steps - 1) * phase.tile
        yield from traffic("neurons", state.layer, name, "state", read=bits, write=bits, of=size)
