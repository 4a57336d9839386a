"""What a machine would do for one token of a traced run: operations by type, bits by memory.

``work_of`` turns counts into lines. Each says how many operations of which kind and type, or how
many bits of what, so that any price table can price them (ledger.py). One phase at a time:

    decode    one token behind ``context - 1`` others, alone
    prefill   a prompt of ``context`` tokens in tiles, a token's share; the head once a prompt
    pass      a bidirectional model over ``context`` tokens, a token's share
    image     one image

Weights    read once a tile, and only those whose input is not zero somewhere in it (measured);
           each further use in the tile is a read from a register
Activations  each input of a product is written once and read once, spikes as bit planes, and so
           is each output; each residual addition reads and writes the stream
Cache      keys and values (attention_work.py)
Steps      a layer runs all its simulation steps before the next does, so they share what is read
           of the weights, and a membrane is read from and written to a register at each step that
           it is carried into
Free       running sums, which stay in the adder; scores, which are used as they are made; code

``spikes`` scales the events: every neuron layer fires that many times as much, up to a density of
1. Tiles scale as independent events do: 1 - (1 - p)^n of the inputs are needed by n tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from spikeformers.energy.counting.sizes import LARGEST_TILE
from spikeformers.energy.counting.trace import Operand, Product, Trace
from spikeformers.energy.pricing.attention_workload import attention_work, pairs_per_query
from spikeformers.energy.pricing.precision import BITS, ELEMENTWISE, STATE, Precision
from spikeformers.energy.pricing.work_items import Phase, Work, compute, limited, traffic

Counts = Literal["additions", "multiplication"]
_KINDS = {"mult": "multiply", "winner_compare": "compare"}


@dataclass(frozen=True)
class Assumptions:
    """What the estimate takes for granted and a reader may want otherwise."""

    tile: int = LARGEST_TILE
    """Tokens of a prompt that share what is read of the weights, and of keys and values."""
    counts: Counts = "additions"
    """How an integer count meets a weight: added that often, or multiplied once."""
    sparse: float = 1.0
    """What a bit of the weights costs where only some inputs' are read, of one read in a row."""


def phases_of(found: Trace, causal: bool, contexts: Iterable[int], tile: int) -> list[Phase]:
    """The phases of a model: decode and prefill, pass, or image."""
    if found.unit == "image":
        return [Phase("image", found.window, 1)]
    most = 1 << (max(1, min(tile, found.window)).bit_length() - 1)  # what was measured
    names: tuple[Literal["decode", "prefill", "pass"], ...] = (
        ("decode", "prefill") if causal else ("pass",)
    )
    return [
        Phase(name, context, 1 if name == "decode" else min(most, context))
        for name in names
        for context in contexts
    ]


def work_of(
    found: Trace,
    precision: Precision,
    phase: Phase,
    *,
    spikes: float = 1.0,
    assumptions: Assumptions | None = None,
) -> list[Work]:
    """Everything that one token takes."""
    assumed = assumptions or Assumptions()
    lines: list[Work] = []
    for product in found.products.values():
        if product.weights is not None:
            lines += _linear(product, found, precision, phase, spikes, assumed)
    lines += attention_work(found, precision, phase, spikes)
    lines += _elementwise(found, precision, phase)
    lines += _states(found, phase)
    rest = found.other_parameters * BITS[precision.other]
    stored = stored_bits(found, precision)
    lines += traffic(
        "other", None, "norms and biases", "weights", read=rest / phase.tile, of=stored
    )
    return [line for line in lines if line.amount]


def stored_bits(found: Trace, precision: Precision) -> float:
    """Bits of all parameters."""
    held = found.parameters - found.other_parameters
    return held * BITS[precision.weight] + found.other_parameters * BITS[precision.other]


def _linear(
    product: Product,
    found: Trace,
    precision: Precision,
    phase: Phase,
    spikes: float,
    assumed: Assumptions,
) -> Iterator[Work]:
    weights, left = product.weights, product.left
    assert weights is not None
    at = (product.component, product.layer, product.name)
    once = product.component == "head" and phase.name == "prefill"
    each = 1 / found.tokens / (phase.context if once else 1)
    width = BITS[precision.weight]
    fan = product.macs / left.size if left.size else 0.0
    needed, uses = 1.0, product.macs * each
    tile = max(n for n in weights.tiles if n <= (1 if once else phase.tile))
    if left.is_spikes:
        more = limited(spikes, left.density)
        seen = weights.touched[tile] / max(1, weights.tiles[tile] * weights.inputs)
        needed = union(seen, tile * weights.steps, more)
        uses = left.nonzero * fan * more * each
        if left.kind == "integer" and assumed.counts == "multiplication":
            yield compute(*at, "multiply", precision.weight, uses)
            yield compute(*at, "add", precision.accumulator, uses)
        else:
            yield compute(*at, "add", precision.accumulator, product.sop * more * each)
    elif product.right.is_spikes:  # stored weights of few values
        width = product.right.planes
        yield compute(*at, "add", precision.accumulator, product.sop * each)
    else:
        yield compute(*at, "multiply", precision.weight, uses)
        yield compute(*at, "add", precision.accumulator, uses)
    fetched = weights.stored * needed / tile / (phase.context if once else 1)
    dear = assumed.sparse if needed < 1 else 1.0
    yield from traffic(
        *at, "weights", read=fetched * width * dear, of=stored_bits(found, precision)
    )
    yield from traffic(*at, "register", read=max(0.0, uses - fetched) * width, of=0)
    outputs = weights.outputs * each
    if precision.quantised:
        yield compute(*at, "multiply", ELEMENTWISE, outputs)
        if not left.is_spikes:
            yield compute(*at, "multiply", ELEMENTWISE, left.size * each)
            yield compute(*at, "compare", ELEMENTWISE, left.size * each)
    entering = left.size * each * input_bits(left, precision)
    leaving = outputs * BITS[precision.stream]
    for bits in (entering, leaving):
        size = bits * tile * (phase.context if once else 1)
        yield from traffic(*at, "activations", read=bits, write=bits, of=size)


def input_bits(side: Operand, precision: Precision) -> int:
    """Bits of one input of a product."""
    if side.is_spikes:
        return side.planes
    return BITS[precision.weight if precision.quantised else precision.stream]


def union(share: float, tokens: int, times: float) -> float:
    """Share of inputs that some of ``tokens`` need, when each fires ``times`` as often."""
    if times == 1.0:
        return share
    one = 1 - (1 - min(share, 1.0)) ** (1 / tokens)
    return 1 - (1 - min(1.0, one * times)) ** tokens


def _elementwise(found: Trace, precision: Precision, phase: Phase) -> Iterator[Work]:
    stored = stored_bits(found, precision)
    grow = pairs_per_query(found, phase)
    for (component, layer), counts in found.operations.items():
        once = component == "head" and phase.name == "prefill"
        each = 1 / found.tokens / (phase.context if once else 1)
        paired: Counter[str] = found.pair_operations.get((component, layer), Counter())
        for kind, n in counts.items():
            amount = (n + paired.get(kind, 0) * (grow - 1)) * each
            if kind == "lookup":
                bits = amount * BITS[precision.weight]
                yield from traffic(component, layer, component, "weights", read=bits, of=stored)
            else:
                said = _KINDS.get(kind, kind)
                yield compute(component, layer, component, said, ELEMENTWISE, amount)
            if component == "residual":
                bits = amount * BITS[precision.stream]
                yield from traffic(
                    component, layer, component, "activations",
                    read=bits, write=bits, of=bits * phase.tile,
                )  # fmt: skip


def _states(found: Trace, phase: Phase) -> Iterator[Work]:
    for name, state in found.states.items():
        grow = pairs_per_query(found, phase) if state.pairs else 1.0
        bits = state.updates * grow / found.tokens * BITS[STATE]
        size = bits / max(1, state.steps - 1) * phase.tile
        yield from traffic("neurons", state.layer, name, "state", read=bits, write=bits, of=size)
