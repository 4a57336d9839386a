"""Neurons of snnTorch (https://github.com/jeshraghian/snntorch), tested with release 1.0.

    Leaky      U[t] = beta U[t-1] + I[t] - reset;  Lapicque: the same, from R, C and a time step
    Synaptic   J[t] = alpha J[t-1] + I[t];  U[t] = beta U[t-1] + J[t] - reset
    Alpha      an excitatory and an inhibitory trace whose difference is U

A spike is emitted where U > threshold. snnTorch's default resets one step late
(``reset_delay=True``). States start at zero, as in snnTorch.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from spikeformers.errors import ConfigError
from spikeformers.neurons._adapter import Adapter, Arithmetic, bound, plain_tensor, surrogate_of

_REFUSED = {
    "init_hidden": "the state is handed over at every step",
    "output": "the state is handed over at every step",
    "inhibition": "neurons of a layer would depend on the batch's shape",
    "state_quant": "a config cannot hold a function",
    "learn_graded_spikes_factor": "the value of a spike has to be fixed",
}


class SNNTorch(Adapter):
    """A neuron of snnTorch; ``spike_grad`` is the name of a surrogate, such as "fast_sigmoid"."""

    title, package, module = "snnTorch", "snntorch", "snntorch"
    classes: ClassVar[dict[str, Arithmetic]] = {
        "Leaky": Arithmetic(add=2, mult=1),
        "Lapicque": Arithmetic(add=2, mult=1),
        "Synaptic": Arithmetic(add=3, mult=2),
        "Alpha": Arithmetic(add=4, mult=3),
    }
    _states: ClassVar[dict[str, tuple[str, ...]]] = {
        "Leaky": ("mem",),
        "Lapicque": ("mem",),
        "Synaptic": ("syn", "mem"),
        "Alpha": ("syn_exc", "syn_inh", "mem"),
    }

    @property
    def unit(self) -> float:
        return float(self.options.get("graded_spikes_factor", 1.0))

    def build(self, constructor: Any, options: dict[str, Any]) -> nn.Module:
        for key in options.keys() & _REFUSED.keys():
            if options[key]:
                raise ConfigError(f"{key} of snnTorch is not supported here: {_REFUSED[key]}.")
        if options.get("spike_grad") is not None:
            surrogates = self.library("snntorch.surrogate")
            options["spike_grad"] = surrogate_of(surrogates, options["spike_grad"], "spike_grad")
        neuron: Any = constructor(**{key: plain_tensor(v) for key, v in options.items()})
        for name in self._states[self.kind]:  # a buffer that no checkpoint has: a plain attribute
            delattr(neuron, name)
            setattr(neuron, name, torch.zeros(0))
        # snnTorch keeps every neuron of a program in a list of the class.
        type(neuron).instances[:] = [n for n in type(neuron).instances if n is not neuron]
        return neuron

    def call(self, current: Tensor, state: Any) -> tuple[Tensor, Any]:
        names = self._states[self.kind]
        before = (torch.zeros_like(current),) * len(names) if state is None else state
        spikes, *after = self.inner(current, *before)
        return spikes, tuple(after)

    def forget(self) -> None:
        for name in self._states[self.kind]:
            setattr(self.inner, name, torch.zeros(0))


def from_snntorch(kind: str | type, **options: Any) -> type[Adapter]:
    """A class for `register_neuron`: snnTorch's ``kind`` with these arguments.

    ``kind`` is "Leaky", "Lapicque", "Synaptic" or "Alpha", or the class itself; a list of numbers
    is one per neuron. In a config the same neuron is ``neuron="snntorch",
    neuron_options={"class": kind, **options}``. Raises ConfigError if snnTorch is missing or
    refuses the arguments.
    """
    return bound(SNNTorch, kind, options)
