"""Softmax-free spiking attention, SFSA: binary weights from a neuron.

    A_int = Q K^T              per head and step: number of coinciding spikes, 0..head width
    A_msk = A_int * M          product with M, 1 where a query may see a key (causal: j <= i)
    A     = SN(A_msk * s)      in {0, 1}; each edge keeps a membrane over the S steps
    O_int = A V                sums of spikes; no neuron follows

BiSpikCLM, https://arxiv.org/abs/2605.13859. The mask is applied before the neuron. The neuron's
threshold is positive, so a masked edge, whose current is zero, never fires.
Differs: s (1 in the paper, as far as is known) may be learned, one number per head; a ``bias`` is
added before the mask, ``A_msk = (A_int * s + bias) * M``. It is a learned real number per head and
distance, so the input of an edge's neuron is then a real number. BiSpikCLM has such a bias by
default (``position="relative"``); the paper's equation does not.
"""

from __future__ import annotations

from torch import Tensor

from spikeformers.attention import _streaming
from spikeformers.attention._base import ScaledAttention
from spikeformers.attention._pairs import Pairs, written_out
from spikeformers.kernels.triton import runs
from spikeformers.neurons import Neuron


class SFSA(ScaledAttention):
    """Edges that fire; ``neuron`` takes the masked scores ``[S, B, H, T, J]``."""

    weights_are_binary = True
    weights_are_fired = True
    exact_in_half = True  # q, k and v are 0 or 1

    def __init__(
        self, neuron: Neuron, scale: float = 1.0, heads: int = 1, learn_scale: bool = False
    ) -> None:
        super().__init__(scale, heads, learn_scale)
        self.neuron = neuron
        neuron.token_axes = (-2, -1)

    def weights(self, q: Tensor, k: Tensor, allowed: Tensor, bias: Tensor | None) -> Tensor:
        edges: Tensor = self.neuron(self.scores(q, k, bias) * allowed)
        return edges

    def streams(self, device: str) -> bool:
        return runs(device, _streaming.sfsa_refusal(self))

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | Pairs, bias: Tensor | None = None
    ) -> Tensor:
        refusal = _streaming.sfsa_refusal(self, q.shape[-3], len(q))
        if _streaming.streams("sfsa", refusal, q, allowed, bias):
            return _streaming.sfsa(self, q, k, v, allowed, bias)
        allowed, bias = written_out(allowed, bias, q, k)
        return super().forward(q, k, v, allowed, bias)
