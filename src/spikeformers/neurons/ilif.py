"""Integer leaky integrate-and-fire, I-LIF.

    U[t] = H[t-1] + X[t];   S[t] = clip(round(U[t]), 0, D);   H[t] = decay * (U[t] - S[t])

SpikeYOLO, https://arxiv.org/abs/2407.20708: NI-LIF without the division by D.
Gradient: as NI-LIF's, without the 1/D.
"""

from __future__ import annotations

from spikeformers.neurons.nilif import NILIF


class ILIF(NILIF):
    """Integer counts 0..``levels`` per step."""

    @property
    def unit(self) -> float:
        return 1.0
