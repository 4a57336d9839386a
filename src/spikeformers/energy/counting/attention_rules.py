"""How attention is counted: its two products, and the operations that its core states between them.

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

Between the products (``Attention.operations``):

    winners    a row of n allowed keys: K passes of n - 1, n - 2, ... comparisons (winner_compare)
    softmax    per allowed pair: 1 mult (scale), 1 compare, 2 function (exp, division), 1 add
    sparsemax  per allowed pair: 1 mult, 3 add, log2(n) winner_compare (a sort)
    SSA        nothing: its scale folds into the next threshold; a WTA's scale changes no winner
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from spikeformers.attention import Attention
from spikeformers.attention.softmax import softmax_operations
from spikeformers.energy.counting.operands import Spikes, counts, operand, spikes_of
from spikeformers.energy.counting.rows import Place, Rows
from spikeformers.energy.counting.rules import spikes_by
from spikeformers.energy.counting.sizes import attending_of
from spikeformers.energy.counting.trace import Attending, Operand, Product, State, Trace
from spikeformers.neurons import Neuron


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

    coincidences = torch.matmul(counts(q, q_spikes), counts(k, k_spikes).transpose(-1, -2))
    dense = q_spikes is None and k_spikes is None
    trace.add_product(
        Product(
            f"{place.name}.scores", "scores", place.component, place.layer,
            operand(rows.select_heads(q), q_spikes), operand(rows.select_heads(own_k), k_spikes),
            macs=number * q.shape[-1],
            sop=0 if dense else int((coincidences * pairs).sum(dtype=torch.float64)),
            attending=extent(),
        )
    )  # fmt: skip

    attended = pairs if weights is None else pairs & (weights != 0)
    real = weights is None or core is None or core.weights_are_real
    w_spikes = None if real or weights is None else spikes_of(weights)
    total = 0
    if weights is not None and w_spikes is not None:
        total = int((counts(weights, w_spikes) * pairs).sum(dtype=torch.float64))
    readers = attended.sum(-2).double()
    gathered = int((readers * counts(v, v_spikes).sum(-1, dtype=torch.float64)).sum())
    dense = w_spikes is None and v_spikes is None
    trace.add_product(
        Product(
            f"{place.name}.values", "values", place.component, place.layer,
            Operand(w_spikes.kind if w_spikes else "real", number, int(attended.sum()), total),
            operand(rows.select_heads(own_v), v_spikes),
            macs=number * v.shape[-1],
            sop=0 if dense else gathered,
            attending=extent(),
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
    k_events, v_events = (
        counts(x, kind).unflatten(-1, (-1, width)).sum(-1, dtype=torch.float64)
        for x, kind in ((k, k_spikes), (v, v_spikes))
    )
    spiking = left.is_spikes or right.is_spikes
    tokens = left.size // width
    extent = attending_of(operands[0], operands[1], tokens, tokens, rows.shape[0])
    trace.add_product(
        Product(
            f"{place.name}.state", "state", place.component, place.layer, left, right,
            macs=left.size * width,
            sop=int((k_events * v_events).sum()) if spiking else 0,
            attending=extent,
        )
    )  # fmt: skip
    trace.add_product(
        Product(
            f"{place.name}.read", "read", place.component, place.layer, reader,
            Operand("real", tokens * width**2, tokens * width**2, 0),
            macs=reader.size * width,
            sop=reader.total * width,
            attending=replace(extent),
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
