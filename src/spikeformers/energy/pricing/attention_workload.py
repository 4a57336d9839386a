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
from dataclasses import dataclass

from spikeformers.energy.counting.trace import Attending, Operand, Product, Trace
from spikeformers.energy.pricing.work_items import (
    BITS,
    COUNT,
    Phase,
    Precision,
    WorkItem,
    compute,
    limited,
    traffic,
)


@dataclass(frozen=True)
class _Job:
    """One product of attention, and the setting that its work is derived for."""

    product: Product
    trace: Trace
    precision: Precision
    phase: Phase
    spikes: float
    """Events as a multiple of the measured ones."""
    held: float
    """Bits of the complete cache."""

    @property
    def attending(self) -> Attending:
        """Sizes of the product."""
        assert self.product.attending is not None
        return self.product.attending

    @property
    def place(self) -> tuple[str, int | None, str]:
        """Component, block and name of the product."""
        return self.product.component, self.product.layer, self.product.name

    @property
    def per_token(self) -> float:
        """Share of one token in what the run counted."""
        return 1 / self.trace.tokens

    @property
    def growth(self) -> float:
        """Factor from pairs of the run to pairs of the phase, per token."""
        return _growth(self.attending, self.phase) * self.per_token

    def add(self, kind: str, factor: float) -> WorkItem:
        """The product's additions, times ``factor``."""
        return compute(*self.place, "add", kind, self.product.sop * factor)

    def dense(self, factor: float) -> Iterator[WorkItem]:
        """Multiply-accumulates of a product without spikes, times ``factor``."""
        macs = self.product.macs * factor
        yield compute(*self.place, "multiply", self.precision.attention, macs)
        yield compute(*self.place, "add", "fp32", macs)

    def stream(self, bits: float) -> Iterator[WorkItem]:
        """Activations of a token, written once and read once."""
        yield from traffic(
            *self.place, "activations", read=bits, write=bits, of=bits * self.phase.tile
        )

    def entering(self, operand: Operand) -> Iterator[WorkItem]:
        """An operand that comes from the neurons, or the stream of reals."""
        width = operand.planes if operand.is_spikes else BITS[self.precision.stream]
        yield from self.stream(operand.size * self.per_token * width)

    def cache(self, cached: Operand, rows: float) -> Iterator[WorkItem]:
        """Reads of ``rows`` rows per token of keys or values, and the write of the token's own."""
        width = cached_bits(cached, self.precision)
        yield from traffic(
            *self.place,
            "cache",
            read=rows * self.attending.width * width,
            write=cached.size * width * self.per_token,
            of=self.held,
        )


def attention_work(
    trace: Trace, precision: Precision, phase: Phase, spikes: float
) -> Iterator[WorkItem]:
    """Work items of every product of attention."""
    cache_size = cache_bits(trace, precision) * phase.context
    for product in trace.products.values():
        job = _Job(product, trace, precision, phase, spikes, cache_size)
        if product.role == "scores":
            yield from _scores(job)
        elif product.role == "values":
            yield from _values(job)
        elif product.role in ("state", "read"):
            yield from _state(job)


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


def _scores(job: _Job) -> Iterator[WorkItem]:
    attending, q, k = job.attending, job.product.left, job.product.right
    event_factor = _event_factor(job.spikes, q, k)
    if q.is_spikes and k.is_spikes:
        yield job.add(COUNT, event_factor * job.growth)
        bits = attending.pairs * attending.width * q.planes * k.planes
        yield compute(*job.place, "logic", "bit", bits * job.growth)
    elif job.product.spiking:
        yield job.add("fp32", event_factor * job.growth)
    else:
        yield from job.dense(job.growth)
    yield from job.entering(q)
    yield from job.cache(k, _all_rows(attending, job.phase))


def _values(job: _Job) -> Iterator[WorkItem]:
    attending, weights, v = job.attending, job.product.left, job.product.right
    read = _attended(job) * attending.queries
    if job.product.spiking:
        events = limited(job.spikes, v.density) if v.is_spikes else 1.0
        sum_type = COUNT if v.is_spikes and weights.is_spikes else "fp32"
        yield job.add(sum_type, events * read / max(1, weights.nonzero) * job.per_token)
    else:
        yield from job.dense(job.growth)
    yield from job.cache(v, min(read * job.per_token, _all_rows(attending, job.phase)))
    yield from job.stream(
        attending.queries * attending.width * job.per_token * BITS[job.precision.stream]
    )


def _state(job: _Job) -> Iterator[WorkItem]:
    """Attention that keeps a state: Z ``[K, K]`` per head, read and written once per tile."""
    product, attending = job.product, job.attending
    operands: tuple[Operand, ...] = (product.left,)
    if product.role == "state":
        operands = (product.left, product.right)
        bits = attending.heads * attending.steps * attending.width**2 * BITS[COUNT]
        layers = sum(p.role == "state" for p in job.trace.products.values())
        per_token = bits / job.phase.tile
        yield from traffic(*job.place, "cache", read=per_token, write=per_token, of=bits * layers)
    if product.spiking:
        kind = COUNT if all(operand.is_spikes for operand in operands) else "fp32"
        yield job.add(kind, _event_factor(job.spikes, *operands) * job.per_token)
    else:
        yield from job.dense(job.per_token)
    for operand in operands:
        yield from job.entering(operand)


def _attended(job: _Job) -> float:
    """Mean number of V rows that a query reads."""
    product, attending, phase, spikes = job.product, job.attending, job.phase, job.spikes
    weights = product.left
    if not attending.queries:
        return 0.0
    measured = weights.nonzero / attending.queries
    if attending.reads_per_query is not None and phase.name != "image":
        return _winners(attending.reads_per_query, phase)
    grown = measured * _growth(attending, phase)
    share = weights.nonzero / max(1, attending.pairs)
    if attending.weights_are_fired:
        return grown * limited(spikes, share)
    scores = job.trace.products.get(f"{product.name.removesuffix('values')}scores")
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


def _event_factor(spikes: float, *operands: Operand) -> float:
    """Factor on the events of a product when neurons fire ``spikes`` times as much."""
    factor = 1.0
    for operand in operands:
        factor *= limited(spikes, operand.density) if operand.is_spikes else 1.0
    return factor


def _all_rows(attending: Attending, phase: Phase) -> float:
    """Rows of a head's width that one pass over all keys reads, per token of the tile."""
    return keys_of(phase, attending) * attending.key_heads * attending.steps / phase.tile
