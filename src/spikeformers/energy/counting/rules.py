"""How each kind of module is counted, in closed form.

With integer counts there is a second sum, of binary digits that are 1 in place of counts
(``Product.digit_sop``).

    linear     SOP = (sum of counts at the input) * outputs;  MACs = rows * inputs * outputs
    conv       SOP = sum over inputs of count * (windows that cover it) * outputs;  MACs = windows
               * their size * inputs * outputs, zeros of the padding included, as papers count them

The two products of attention:

    scores     SOP = sum over allowed (i, j) of sum_k count(q_ik) * count(k_jk)      coincidences
    values     SOP = sum over allowed (i, j) with A_w[i, j] != 0 of sum_k count(v_jk)
    state      SOP = sum over tokens j of (sum_k count(k_jk)) * (sum_k count(v_jk))
    read       SOP = (sum of counts of q) * head width

The last two are for a core that keeps a state: Z += k_j v_j^T and q_i Z, as one running sum over
the tokens. A real operand counts 1 everywhere, so if one operand is real, these are the accumulates
that remain for the other's spikes. In ``values`` each event of V adds the weight A_w[i, j],
whatever its width, as each event of a linear layer adds a real weight: hard and top-K gather the
winners' rows, sparsemax the rows of its support, softmax all allowed rows, and SSA and A2OS2A the
rows whose score is not 0.

Elementwise, per value unless said otherwise:

    norm       layer: 4 add, 3 mult; rms: 1 add, 3 mult; and one root per row; batch, with fixed
               statistics: 1 add, 1 mult, which may fold into the weights before it
    neuron     as the neuron states itself (``Neuron.operations``)
    attention  between its products, as the core states itself (``Attention.operations``):
      winners    a row of n allowed keys: K passes of n - 1, n - 2, ... comparisons (winner_compare)
      softmax    per allowed pair: 1 mult (scale), 1 compare, 2 function (exp, division), 1 add
      sparsemax  per allowed pair: 1 mult, 3 add, log2(n) winner_compare (a sort)
      SSA        nothing: its scale folds into the next threshold; a WTA's scale changes no winner
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from spikeformers.attention import Attention
from spikeformers.attention.softmax import softmax_operations
from spikeformers.energy.counting.operands import (
    Place,
    Rows,
    Spikes,
    counts,
    has_two_prices,
    in_digits,
    operand,
    spikes_of,
)
from spikeformers.energy.counting.sizes import attending_of, weights_of, weights_of_convolution
from spikeformers.energy.counting.trace import Attending, Operand, Product, State, Synapses, Trace
from spikeformers.neurons import Neuron


def linear(
    trace: Trace, place: Place, rows: Rows, x: Tensor, stated: Spikes | None, weight: Tensor
) -> int:
    """Count ``x W`` (``weight`` ``[in, out]``); returns the MACs that were executed."""
    inputs, outputs = weight.shape
    spikes = spikes_of(x, stated)
    left = operand(rows.select(x), spikes)
    stored = spikes_of(weight)
    right = operand(weight, stored)
    times = left.size // inputs
    sop = digit_sop = 0
    if spikes is not None:
        sop, digit_sop = left.total * outputs, left.digits * outputs
    elif stored is not None:
        sop, digit_sop = right.total * times, right.digits * times
    trace.add_product(
        Product(
            place.name, "linear", place.component, place.layer, left, right,
            macs=left.size * outputs, sop=sop,
            weights=weights_of(
                x, rows.shape, rows.keep, weight.numel(), times * outputs, times
            ),
            digit_sop=digit_sop,
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
    """Count a convolution of ``[N, C, H, W]``; returns the MACs that were executed."""
    spikes, stored = spikes_of(x, stated), spikes_of(module.weight)
    macs = out.numel() * (module.weight.numel() // module.weight.shape[0])

    def accumulates(entering: Spikes | None, held: Spikes | None) -> int:
        # A kernel of ones sums the counts in each window; a real operand counts one.
        kernel = counts(module.weight, None if entering is not None else held)
        covered = nn.functional.conv2d(
            counts(x, entering).double(), kernel.double(), None,
            module.stride, module.padding, module.dilation, module.groups,
        )  # fmt: skip
        return int(covered.sum())

    spiking = spikes is not None or stored is not None
    trace.add_product(
        Product(
            place.name, "linear", place.component, place.layer,
            operand(x, spikes), operand(module.weight, stored), macs=macs,
            sop=accumulates(spikes, stored) if spiking else 0,
            weights=weights_of_convolution(x, rows.shape[0], module, out.numel()),
            digit_sop=accumulates(in_digits(spikes), in_digits(stored)) if spiking else 0,
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
    """The kind of norm: "layer", "rms", "batch" (with fixed statistics), or None for no norm."""
    if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
        return "batch" if module.track_running_stats else None
    if isinstance(module, nn.LayerNorm):
        return "layer"
    name = type(module).__name__
    if isinstance(module, nn.RMSNorm) or name.endswith("RMSNorm"):
        return "rms"
    return "layer" if name.endswith("LayerNorm") else None


def synapses_of_linear(rows: Rows, x: Tensor, stated: Spikes | None, weight: Tensor) -> Synapses:
    """Synapses of ``x W``, ``weight`` ``[in, out]``; ``stated`` by the neuron that made ``x``."""
    inputs, outputs = weight.shape
    spikes = spikes_of(x, stated)
    x = rows.select(x)
    events = _events(x, spikes).reshape(-1, inputs).sum(0, dtype=torch.float64)
    nonzero_weights = (weight != 0).sum(1).double()
    return Synapses(spikes is not None, int(events @ nonzero_weights), x.numel() * outputs)


def synapses_of_convolution(x: Tensor, stated: Spikes | None, module: nn.Conv2d) -> Synapses:
    """Synapses of a convolution of ``[N, C, H, W]``: a kernel of ones sums each window."""
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
    """Counts of spikes; for real numbers, 1 where they are not zero."""
    return (x != 0).float() if spikes is None else counts(x, spikes)


def edges(
    trace: Trace, place: Place, rows: Rows, module: Neuron, spikes: Tensor, allowed: Tensor
) -> None:
    """Count a neuron on attention scores ``[S, B, H, T, J]``: allowed pairs of real queries only.

    A masked pair has no current and never fires, so that its neuron needs no update.
    """
    pairs = (allowed & rows.queries(spikes.shape[-2])).expand(spikes.shape)
    n, steps = int(pairs.sum()), spikes.shape[0]
    trace.add_pair_operations("neurons", place.layer, **module.operations(n, steps))
    carried = n // steps * (steps - 1)
    trace.add_state(place.name, State(place.layer, carried, steps, pairs=True))
    trace.add_neuron(place.name, operand(spikes[pairs], spikes_by(module)))


def attention(
    trace: Trace,
    place: Place,
    rows: Rows,
    operands: tuple[Tensor, Tensor, Tensor],
    stated: tuple[Spikes | None, Spikes | None, Spikes | None],
    allowed: Tensor,
    weights: Tensor | None,
    core: Attention | None = None,
) -> Tensor:
    """Count both products of attention; returns the allowed pairs ``[..., H, T, J]``.

    ``operands`` are q ``[..., H, T, K]``, k and v ``[..., H', J, K]`` (H' divides H); ``stated``
    are their spikes as stated by the neurons that made them. ``weights`` ``[..., H, T, J]`` of
    ``core`` are None for softmax, whose weights are real and not zero where allowed.
    """
    q, k, v = operands
    q_spikes, k_spikes, v_spikes = (
        spikes_of(x, kind) for x, kind in zip(operands, stated, strict=True)
    )
    own_k, own_v = (rows.own_heads(x) for x in (k, v))
    if q.dim() >= 3 and k.shape[-3] != q.shape[-3]:
        k, v = (x.repeat_interleave(q.shape[-3] // x.shape[-3], -3) for x in (k, v))
    shape = (*q.shape[:-1], k.shape[-2])
    pairs = (allowed & rows.queries(q.shape[-2])).expand(shape)
    number = int(pairs.sum())
    queries = int(pairs.any(-1).sum())

    def extent() -> Attending:
        return attending_of(q, own_k, queries, number, rows.shape[0], core)

    def coincidences(of_q: Spikes | None, of_k: Spikes | None) -> int:
        pairwise = torch.matmul(counts(q, of_q), counts(k, of_k).transpose(-1, -2))
        return int((pairwise * pairs).sum(dtype=torch.float64))

    dense = q_spikes is None and k_spikes is None
    sop = 0 if dense else coincidences(q_spikes, k_spikes)
    as_digits = has_two_prices(q_spikes) or has_two_prices(k_spikes)
    trace.add_product(
        Product(
            f"{place.name}.scores", "scores", place.component, place.layer,
            operand(rows.select_heads(q), q_spikes), operand(rows.select_heads(own_k), k_spikes),
            macs=number * q.shape[-1],
            sop=sop,
            attending=extent(),
            digit_sop=coincidences(in_digits(q_spikes), in_digits(k_spikes)) if as_digits else sop,
        )
    )  # fmt: skip

    attended = pairs if weights is None else pairs & (weights != 0)
    real = weights is None or core is None or core.weights_are_real
    w_spikes = None if real or weights is None else spikes_of(weights)
    total = 0
    if weights is not None and w_spikes is not None:
        total = int((counts(weights, w_spikes) * pairs).sum(dtype=torch.float64))
    readers = attended.sum(-2).double()

    def gathered(spikes: Spikes | None) -> int:
        return int((readers * counts(v, spikes).sum(-1, dtype=torch.float64)).sum())

    dense = w_spikes is None and v_spikes is None
    trace.add_product(
        Product(
            f"{place.name}.values", "values", place.component, place.layer,
            Operand(w_spikes.kind if w_spikes else "real", number, int(attended.sum()), total),
            operand(rows.select_heads(own_v), v_spikes),
            macs=number * v.shape[-1],
            sop=0 if dense else gathered(v_spikes),
            attending=extent(),
            digit_sop=0 if dense else gathered(in_digits(v_spikes)),
        )
    )  # fmt: skip
    return pairs


def state_attention(
    trace: Trace,
    place: Place,
    rows: Rows,
    operands: tuple[Tensor, Tensor, Tensor],
    stated: tuple[Spikes | None, Spikes | None, Spikes | None],
) -> None:
    """Count Q (K^T V) of q, k, v ``[..., H, T, K]``: each token is added to Z and reads it once."""
    q_spikes, k_spikes, v_spikes = (
        spikes_of(x, kind) for x, kind in zip(operands, stated, strict=True)
    )
    q, k, v = (rows.select_heads(x) for x in operands)
    left, right, reader = operand(k, k_spikes), operand(v, v_spikes), operand(q, q_spikes)
    # Separate the heads again, since only k and v of one head are multiplied.
    width = operands[1].shape[-1]

    def added(of_k: Spikes | None, of_v: Spikes | None) -> int:
        k_events, v_events = (
            counts(x, kind).unflatten(-1, (-1, width)).sum(-1, dtype=torch.float64)
            for x, kind in ((k, of_k), (v, of_v))
        )
        return int((k_events * v_events).sum())

    spiking = left.is_spikes or right.is_spikes
    tokens = left.size // width
    extent = attending_of(operands[0], operands[1], tokens, tokens, rows.shape[0])
    trace.add_product(
        Product(
            f"{place.name}.state", "state", place.component, place.layer, left, right,
            macs=left.size * width,
            sop=added(k_spikes, v_spikes) if spiking else 0,
            attending=extent,
            digit_sop=added(in_digits(k_spikes), in_digits(v_spikes)) if spiking else 0,
        )
    )  # fmt: skip
    trace.add_product(
        Product(
            f"{place.name}.read", "read", place.component, place.layer, reader,
            Operand("real", tokens * width**2, tokens * width**2, 0),
            macs=reader.size * width,
            sop=reader.total * width,
            attending=replace(extent),
            digit_sop=reader.digits * width,
        )
    )  # fmt: skip


def softmax(trace: Trace, place: Place, pairs: int) -> None:
    """Count scale and softmax over ``pairs`` scores of a dense model."""
    trace.add_pair_operations(place.component, place.layer, **softmax_operations(pairs))


def core(trace: Trace, place: Place, module: Attention, pairs: Tensor, bias: bool) -> None:
    """Count the operations that an attention core states between its two products."""
    if bias:
        trace.add_pair_operations(place.component, place.layer, add=int(pairs.sum()))
    trace.add_pair_operations(place.component, place.layer, **module.operations(pairs))
