"""How each kind of module is counted, in closed form.

    linear     SOP = (sum of counts at the input) * outputs;  MACs = rows * inputs * outputs
    conv       SOP = sum over inputs of count * (windows that cover it) * outputs;  MACs = windows
               * their size * inputs * outputs, zeros of the padding included, as papers count them
    scores     SOP = sum over allowed (i, j) of sum_k count(q_ik) * count(k_jk)      coincidences
    values     SOP = sum over allowed (i, j) with A_w[i, j] != 0 of sum_k count(v_jk)
    state      SOP = sum over tokens j of (sum_k count(k_jk)) * (sum_k count(v_jk))
    read       SOP = (sum of counts of q) * head width

The last two are A2OS2A's order "state", Z += k_j v_j^T and q_i Z, as one sum that runs over the
tokens. A real operand counts 1 everywhere, so with one side real these are the accumulates that the
other side's spikes leave. In ``values`` each event of V adds the weight A_w[i, j], whatever its
width, as each event of a linear layer adds a real weight: hard and top-K gather the winners' rows,
sparsemax those of its support, softmax all that are allowed, and SSA and A2OS2A those whose score
is not 0.

Elementwise, per value unless said otherwise, with S simulation steps:

    norm       layer: 4 add, 3 mult; rms: 1 add, 3 mult; and one root a row; batch, with fixed
               statistics: 1 add, 1 mult, which may fold into the weights before it
    neuron     a comparison per level and step (ternary 2), and per carried step 2 add and 1 mult;
               IF and pairs of it: 2 add and 1 comparison a neuron and step, however they are run
    winners    a row of n allowed keys: K passes of n - 1, n - 2, ... comparisons (winner_compare)
    softmax    per allowed pair: 1 mult (scale), 1 compare, 2 function (exp, division), 1 add
    sparsemax  per allowed pair: 1 mult, 3 add, log2(n) winner_compare (a sort)
    SSA        nothing: its scale folds into the threshold behind it, as a WTA's moves no winner
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spikeformers.attention import A2OS2A, SFSA, WTA, Attention, SoftmaxAttention
from spikeformers.energy.counting.operands import Spikes, counts, operand, spikes_of
from spikeformers.energy.counting.sizes import attending_of, weights_of, weights_of_convolution
from spikeformers.energy.counting.trace import Attending, Operand, Product, State, Trace
from spikeformers.neurons import Neuron


class Place(NamedTuple):
    """Where in the model something happens."""

    name: str
    component: str
    layer: int | None


class Rows:
    """Which (sequence, token) rows count: those that are not padding.

    Of ``images`` all count, and one image is what a token is elsewhere.
    """

    def __init__(
        self, batch: int, tokens: int, mask: Tensor | None, *, images: bool = False
    ) -> None:
        self.shape, self.images = (batch, tokens), images
        self.key_heads: int | None = None
        """Heads of keys and values where query heads share them, by the model's config."""
        self.keep = None if mask is None or bool(mask.all()) else mask.bool()
        self.tokens = batch * tokens if self.keep is None else int(self.keep.sum())

    @property
    def share(self) -> float:
        """Real tokens per token of the batch."""
        return self.tokens / (self.shape[0] * self.shape[1])

    def select(self, x: Tensor) -> Tensor:
        """Rows of ``[..., B, T, D]`` or ``[..., B * T, D]`` that count; other shapes whole."""
        if self.keep is None:
            return x
        if tuple(x.shape[-3:-1]) == self.shape:
            return x[..., self.keep, :]
        if x.dim() >= 2 and x.shape[-2] == self.keep.numel():
            return x[..., self.keep.flatten(), :]
        return x

    def select_heads(self, x: Tensor) -> Tensor:
        """Rows of ``[..., B, H, T, K]`` that count."""
        if x.dim() < 4:
            return x
        return self.select(x.transpose(-3, -2).flatten(-2))

    def own_heads(self, x: Tensor) -> Tensor:
        """Keys or values ``[..., H, J, K]`` without the copies that query heads share."""
        heads = self.key_heads
        if heads is None or x.dim() < 3 or x.shape[-3] <= heads or x.shape[-3] % heads:
            return x
        return x[..., :: x.shape[-3] // heads, :, :]

    def join_stream(self, args: tuple[Any, ...], width: int) -> bool:
        """Whether an addition of ``args`` joins the residual stream of that width."""
        if not all(isinstance(x, Tensor) for x in args[:2]):
            return False
        one, other = (tuple(x.shape) for x in args[:2])
        if self.images:
            return one == other and len(one) >= 3
        stream = (*self.shape, width)
        return one[-3:] == stream and other[-3:] == stream

    def queries(self, queries: int) -> Tensor | bool:
        """Mask of the queries that count, ``[B, 1, T, 1]``; True where all do."""
        return True if self.keep is None else self.keep[:, None, -queries:, None]


def linear(
    trace: Trace, place: Place, rows: Rows, x: Tensor, known: Spikes | None, weight: Tensor
) -> int:
    """Count ``x W`` (``weight`` ``[in, out]``); returns the MACs that were really dispatched."""
    inputs, outputs = weight.shape
    spikes = spikes_of(x, known)
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
    known: Spikes | None,
    out: Tensor,
) -> int:
    """Count a convolution of ``[N, C, H, W]``; returns the MACs that were really dispatched."""
    spikes, stored = spikes_of(x, known), spikes_of(module.weight)
    macs = out.numel() * (module.weight.numel() // module.weight.shape[0])
    sop = 0
    if spikes is not None or stored is not None:
        # A kernel of ones sums the counts that each window covers; a real side counts one.
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
    """Count a neuron's spikes and updates; returns what its spikes are."""
    steps = current.shape[0]
    n = rows.select(current).numel()
    trace.add_operations("neurons", place.layer, **module.operations(n, steps))
    trace.add_state(place.name, State(place.layer, n // steps * (steps - 1), steps))
    kind = spikes_by(module)
    trace.add_neuron(place.name, operand(rows.select(spikes), kind))
    return kind


def spikes_by(module: Neuron) -> Spikes:
    """What a neuron's output is."""
    if module.expanded:
        return Spikes("binary", 1.0)
    return Spikes(module.spike_type, module.unit, module.weighted)


def edges(
    trace: Trace, place: Place, rows: Rows, module: Neuron, spikes: Tensor, allowed: Tensor
) -> None:
    """Count a neuron on attention scores ``[S, B, H, T, J]``: allowed pairs of real queries only.

    A masked pair has no current and never fires, so no machine would update it.
    """
    pairs = (allowed & rows.queries(spikes.shape[-2])).expand(spikes.shape)
    n, steps = int(pairs.sum()), spikes.shape[0]
    carried = n // steps * (steps - 1)
    trace.add_pair_operations(
        "neurons", place.layer,
        compare=module.levels * n, add=2 * carried, mult=carried,
    )  # fmt: skip
    trace.add_state(place.name, State(place.layer, carried, steps, pairs=True))
    trace.add_neuron(place.name, operand(spikes[pairs], Spikes(module.spike_type, module.unit)))


def attention(
    trace: Trace,
    place: Place,
    rows: Rows,
    sides: tuple[Tensor, Tensor, Tensor],
    known: tuple[Spikes | None, Spikes | None, Spikes | None],
    allowed: Tensor,
    weights: Tensor | None,
    core: Attention | None = None,
) -> Tensor:
    """Count both products of attention; returns the allowed pairs ``[..., H, T, J]``.

    ``sides`` are q ``[..., H, T, K]``, k and v ``[..., H', J, K]`` (H' divides H); ``weights``
    ``[..., H, T, J]`` is None for softmax, whose weights are real and not zero where allowed;
    ``core`` made them.
    """
    q, k, v = sides
    q_spikes, k_spikes, v_spikes = (
        spikes_of(x, kind) for x, kind in zip(sides, known, strict=True)
    )
    own_k, own_v = (rows.own_heads(x) for x in (k, v))
    if q.dim() >= 3 and k.shape[-3] != q.shape[-3]:
        k, v = (x.repeat_interleave(q.shape[-3] // x.shape[-3], -3) for x in (k, v))
    shape = (*q.shape[:-1], k.shape[-2])
    pairs = (allowed & rows.queries(q.shape[-2])).expand(shape)
    number = int(pairs.sum())
    winners = core.winners_per_query if isinstance(core, WTA) else None
    edges = isinstance(core, SFSA)
    queries = int(pairs.any(-1).sum())

    def extent() -> Attending:
        return attending_of(q, own_k, queries, number, rows.shape[0], winners, edges)

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
    real = weights is None or core is None or is_real(core)
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
    sides: tuple[Tensor, Tensor, Tensor],
    known: tuple[Spikes | None, Spikes | None, Spikes | None],
) -> None:
    """Count Q (K^T V) of q, k, v ``[..., H, T, K]``: each token joins Z once and reads it once."""
    kinds = tuple(spikes_of(x, kind) for x, kind in zip(sides, known, strict=True))
    q, k, v = (rows.select_heads(x) for x in sides)
    left, right, reader = (
        operand(x, kind) for x, kind in zip((k, v, q), (kinds[1], kinds[2], kinds[0]), strict=True)
    )
    # By heads again, since only one head's k and v meet: the width of a head is the last of sides.
    width = sides[1].shape[-1]
    events = [
        counts(x, kind).unflatten(-1, (-1, width)).sum(-1, dtype=torch.float64)
        for x, kind in ((k, kinds[1]), (v, kinds[2]))
    ]
    spiking = left.is_spikes or right.is_spikes
    number = left.size // width
    extent = attending_of(sides[0], sides[1], number, number, rows.shape[0], None, False)
    trace.add_product(
        Product(
            f"{place.name}.state", "state", place.component, place.layer, left, right,
            macs=left.size * width,
            sop=int((events[0] * events[1]).sum()) if spiking else 0,
            attending=extent,
        )
    )  # fmt: skip
    tokens = left.size // width
    trace.add_product(
        Product(
            f"{place.name}.read", "read", place.component, place.layer, reader,
            Operand("real", tokens * width**2, tokens * width**2, 0),
            macs=reader.size * width,
            sop=reader.total * width,
            attending=replace(extent),
        )
    )  # fmt: skip


def state_macs(core: A2OS2A, q: Tensor) -> int:
    """MACs that ``A2OS2A.stream`` dispatches: its causal blocks compute scores inside."""
    tokens, width = q.shape[-2:]
    total = 0
    for number, block in enumerate(core.blocks(tokens)):
        size = block.stop - block.start
        total += size * width * width * (1 if core.causal and number == 0 else 2)
        total += 2 * size * size * width if core.causal else 0
    return q.numel() // (tokens * width) * total


def is_real(module: Attention) -> bool:
    """Whether the weights of this core are real numbers, even where they happen to be 0 and 1."""
    sparsemax = isinstance(module, WTA) and module.winners_per_query is None
    return sparsemax or isinstance(module, SoftmaxAttention)


def softmax(trace: Trace, place: Place, pairs: int) -> None:
    """Count scale and softmax over ``pairs`` scores."""
    trace.add_pair_operations(
        place.component, place.layer,
        mult=pairs, compare=pairs, function=2 * pairs, add=pairs,
    )  # fmt: skip


def core(trace: Trace, place: Place, module: Attention, pairs: Tensor, bias: bool) -> None:
    """Count what happens between the two products of a spiking attention core."""
    number = int(pairs.sum())
    if bias:
        trace.add_pair_operations(place.component, place.layer, add=number)
    if isinstance(module, SoftmaxAttention):
        softmax(trace, place, number)
    if not isinstance(module, WTA):
        return
    keys = pairs.sum(-1)
    if module.winners_per_query is None:
        sort = int((keys * keys.clamp_min(1).double().log2().ceil()).sum())
        trace.add_pair_operations(
            place.component, place.layer,
            mult=number, add=3 * number, winner_compare=sort,
        )  # fmt: skip
        return
    passes = sum(int((keys - 1 - r).clamp_min(0).sum()) for r in range(module.winners_per_query))
    trace.add_pair_operations(place.component, place.layer, winner_compare=passes)


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
