"""Feed-forward by ON and OFF NI-LIF neurons: integer counts in one step.

    S = clip(round(U), 0, D) / D,  U = x D / theta,  D = T levels            neurons/nilif.py

At equal thresholds the numbers are those of ``signed_if``: T ternary steps and one step with counts
up to T encode the same values. What differs is time and hardware: nothing recurs, and the spikes
are graded.
"""

from __future__ import annotations

from spikeformers.conversion.signed_if import calibrate

__all__ = ["calibrate"]
