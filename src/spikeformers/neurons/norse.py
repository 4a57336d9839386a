"""Neurons of Norse (https://github.com/norse/norse), tested with release 1.1.

    LIFBoxCell   v[t] = v[t-1] + dt tau_mem_inv (v_leak - v[t-1] + x[t])      no synaptic current
    LIFCell      v[t] = v[t-1] + dt tau_mem_inv (v_leak - v[t-1] + i[t-1])
                 i[t] = i[t-1] - dt tau_syn_inv i[t-1] + x[t]
    IAFCell      v[t] = v[t-1] + x[t]

A spike is emitted where v > v_th, and v becomes v_reset. The parameters of a cell (``tau_mem_inv``,
``v_th``, ``method`` ...) are options beside ``dt``; the synaptic current of LIFCell arrives one
step late, so that it is silent in a single step from rest.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from spikeformers.errors import ConfigError, nearest
from spikeformers.neurons._adapter import Adapter, Arithmetic, bound

_PARAMETERS = {
    "LIFBoxCell": "LIFBoxParameters",
    "LIFCell": "LIFParameters",
    "IAFCell": "IAFParameters",
}


class Norse(Adapter):
    """A cell of Norse without recurrence."""

    title, package, module = "Norse", "norse", "norse.torch"
    classes: ClassVar[dict[str, Arithmetic]] = {
        "LIFBoxCell": Arithmetic(add=4, mult=2),
        "LIFCell": Arithmetic(add=6, mult=3),
        "IAFCell": Arithmetic(add=2, mult=0),
    }

    def build(self, constructor: Any, options: dict[str, Any]) -> nn.Module:
        group = getattr(self.library(), _PARAMETERS[self.kind])
        timing = {key: options.pop(key) for key in ("dt",) if key in options}
        for key in options:
            if key not in group._fields:
                raise ConfigError(
                    f"Norse's {self.kind} has no parameter {key!r}; it has dt, "
                    f"{', '.join(group._fields)}.{nearest(key, group._fields)}"
                )
        numbers = {
            key: value if isinstance(value, str) else torch.as_tensor(value, dtype=torch.float32)
            for key, value in options.items()
        }
        cell: nn.Module = constructor(p=group(**numbers), **timing)
        return cell

    def call(self, current: Tensor, state: Any) -> tuple[Tensor, Any]:
        spikes, after = self.inner(current, state)
        return spikes, after


def from_norse(kind: str | type, **options: Any) -> type[Adapter]:
    """A class for `register_neuron`: Norse's cell ``kind`` with these parameters and ``dt``.

    ``kind`` is "LIFBoxCell", "LIFCell" or "IAFCell", or the class itself. In a config the same
    neuron is ``neuron="norse", neuron_options={"class": kind, **options}``. Raises ConfigError if
    Norse is missing or refuses the parameters.
    """
    return bound(Norse, kind, options)
