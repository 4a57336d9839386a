"""The work of attention per token: counted pairs, scaled to another context.

Coincidences and additions per allowed pair are those of the run; the number of pairs follows from
the context. Winner-take-all reads the V rows of its winners, at most as many as there are keys; a
neuron's edges, softmax and SSA keep their share of the pairs.

Cache: each token's key and value are written once, real ones in fp16 and spikes as bit planes. All
queries of a tile share one pass over the keys; values are read row by row if few are needed, and at
most once per tile. For a product of two bit planes all their bits are compared (``logic``),
independent of how many fire.
"""

from __future__ import annotations

from collections.abc import Iterator

from spikeformers.energy.counting.trace import Attending, Operand, Product, Trace
from spikeformers.energy.pricing.precision import BITS, COUNT, Precision
from spikeformers.energy.pricing.work_items import Phase, WorkItem, compute, limited, traffic


def attention_work(
    trace: Trace, precision: Precision, phase: Phase, spikes: float
) -> Iterator[WorkItem]:
    """Work items of every product of attention."""
    held = cache_bits(trace, precision) * phase.context
    for product in trace.products.values():
        if product.role == "scores":
            yield from _scores(product, trace, precision, phase, spikes, held)
        elif product.role == "values":
            yield from _values(product, trace, precision, phase, spikes, held)
        elif product.role in ("state", "read"):
            yield from _state(product, trace, precision, phase, spikes)


def cache_bits(trace: Trace, precision: Precision) -> float:
    """Bits per token (or image) in the cache: keys and values of all layers."""
    cached = (p.right for p in trace.products.values() if p.role in ("scores", "values"))
    return sum(x.size * cached_bits(x, precision) for x in cached) / max(1, trace.tokens)


def cached_bits(cached: Operand, precision: Precision) -> int:
    """Bits of one value of a key or value."""
    return cached.planes if cached.is_spikes else BITS[precision.cache]


def keys_of(phase: Phase, attending: Attending) -> float:
    """Mean number of keys that a query sees."""
    if phase.name == "image":
        return attending.pairs / max(1, attending.queries)
    return (phase.context + 1) / 2 if phase.name == "prefill" else float(phase.context)


def pairs_per_query(trace: Trace, phase: Phase) -> float:
    """Pairs of the phase over those of the run; 1 if no attention scores pairs."""
    for product in trace.products.values():
        if product.role == "scores" and product.attending is not None:
            return _growth(product.attending, phase)
    return 1.0


def _growth(attending: Attending, phase: Phase) -> float:
    return keys_of(phase, attending) * attending.queries / max(1, attending.pairs)


def _scores(
    product: Product,
    trace: Trace,
    precision: Precision,
    phase: Phase,
    spikes: float,
    held: float,
) -> Iterator[WorkItem]:
    attending, q, k = product.attending, product.left, product.right
    assert attending is not None
    at = _place(product)
    each = 1 / trace.tokens
    grow = _growth(attending, phase) * each
    event_factor = _event_factor(spikes, q, k)
    if q.is_spikes and k.is_spikes:
        yield compute(*at, "add", COUNT, product.sop * event_factor * grow)
        bits = attending.pairs * attending.width * q.planes * k.planes
        yield compute(*at, "logic", "bit", bits * grow)
    elif product.spiking:
        yield compute(*at, "add", "fp32", product.sop * event_factor * grow)
    else:
        yield from _dense(product, precision, grow)
    entering = q.size * each * (q.planes if q.is_spikes else BITS[precision.stream])
    yield from traffic(*at, "activations", read=entering, write=entering, of=entering * phase.tile)
    yield from _cache_traffic(product, k, trace, precision, held, _all_rows(attending, phase))


def _values(
    product: Product,
    trace: Trace,
    precision: Precision,
    phase: Phase,
    spikes: float,
    held: float,
) -> Iterator[WorkItem]:
    attending, weights, v = product.attending, product.left, product.right
    assert attending is not None
    at = _place(product)
    each = 1 / trace.tokens
    read = _attended(product, trace, phase, spikes)
    grow = read * attending.queries / max(1, weights.nonzero) * each
    events = limited(spikes, v.density) if v.is_spikes else 1.0
    if product.spiking:
        sum_type = COUNT if v.is_spikes and weights.is_spikes else "fp32"
        yield compute(*at, "add", sum_type, product.sop * events * grow)
    else:
        yield from _dense(product, precision, _growth(attending, phase) * each)
    rows = min(read * attending.queries * each, _all_rows(attending, phase))
    yield from _cache_traffic(product, v, trace, precision, held, rows)
    leaving = attending.queries * attending.width * each * BITS[precision.stream]
    yield from traffic(*at, "activations", read=leaving, write=leaving, of=leaving * phase.tile)


def _cache_traffic(
    product: Product,
    cached: Operand,
    trace: Trace,
    precision: Precision,
    held: float,
    rows: float,
) -> Iterator[WorkItem]:
    """Reads of ``rows`` rows per token of keys or values, and the write of the token's own."""
    assert product.attending is not None
    width = cached_bits(cached, precision)
    yield from traffic(
        *_place(product),
        "cache",
        read=rows * product.attending.width * width,
        write=cached.size * width * (1 / trace.tokens),
        of=held,
    )


def _place(product: Product) -> tuple[str, int | None, str]:
    return product.component, product.layer, product.name


def _dense(product: Product, precision: Precision, factor: float) -> Iterator[WorkItem]:
    """Multiply-accumulates of a product without spikes, times ``factor``."""
    at = _place(product)
    yield compute(*at, "multiply", precision.attention, product.macs * factor)
    yield compute(*at, "add", "fp32", product.macs * factor)


def _attended(product: Product, trace: Trace, phase: Phase, spikes: float) -> float:
    """Mean number of V rows that a query reads."""
    attending, weights = product.attending, product.left
    assert attending is not None
    if not attending.queries:
        return 0.0
    measured = weights.nonzero / attending.queries
    if attending.reads_per_query is not None and phase.name != "image":
        return _winners(attending.reads_per_query, phase)
    grown = measured * _growth(attending, phase)
    share = weights.nonzero / max(1, attending.pairs)
    if attending.weights_are_fired:
        return grown * limited(spikes, share)
    scores = trace.products.get(f"{product.name.removesuffix('values')}scores")
    if scores is None or not weights.is_spikes:
        return grown
    return grown * min(
        _event_factor(spikes, scores.left, scores.right), 1 / share if share else 1.0
    )


def _winners(most: int, phase: Phase) -> float:
    if phase.name != "prefill" or phase.context <= most:
        keys = (phase.context + 1) / 2 if phase.name == "prefill" else phase.context
        return float(min(most, keys))
    full = phase.context - most
    return (most * (most + 1) / 2 + full * most) / phase.context


def _state(
    product: Product, trace: Trace, precision: Precision, phase: Phase, spikes: float
) -> Iterator[WorkItem]:
    """Attention that keeps a state: Z ``[K, K]`` per head, read and written once per tile."""
    attending, left, right = product.attending, product.left, product.right
    assert attending is not None
    at = _place(product)
    each = 1 / trace.tokens
    if product.role == "state":
        kind = COUNT if left.is_spikes and right.is_spikes else "fp32"
        event_factor = _event_factor(spikes, left, right)
        heads = attending.heads * attending.steps
        bits = heads * attending.width**2 * BITS[COUNT]
        layers = sum(p.role == "state" for p in trace.products.values())
        yield from traffic(
            *at, "cache", read=bits / phase.tile, write=bits / phase.tile, of=bits * layers
        )
        entering_operands = (left, right)
    else:
        kind = COUNT if left.is_spikes else "fp32"
        event_factor = _event_factor(spikes, left)
        entering_operands = (left,)  # type: ignore[assignment]
    if product.spiking:
        yield compute(*at, "add", kind, product.sop * event_factor * each)
    else:
        yield from _dense(product, precision, each)
    for operand in entering_operands:
        width = operand.planes if operand.is_spikes else BITS[precision.stream]
        entering = operand.size * each * width
        yield from traffic(
            *at, "activations", read=entering, write=entering, of=entering * phase.tile
        )


def _event_factor(spikes: float, *operands: Operand) -> float:
    """Factor on the events of a product when neurons fire ``spikes`` times as much."""
    factor = 1.0
    for operand in operands:
        factor *= limited(spikes, operand.density) if operand.is_spikes else 1.0
    return factor


def _all_rows(attending: Attending, phase: Phase) -> float:
    """Rows of a head's width that one pass over all keys reads, per token of the tile."""
    return keys_of(phase, attending) * attending.key_heads * attending.steps / phase.tile
