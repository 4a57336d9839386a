"""Neurons of SpikingJelly (https://github.com/fangwei123456/spikingjelly), tested with release 2.0.

charge, fire, reset:   U[t] = f(V[t-1], X[t]);   S[t] = [U[t] >= v_threshold]
                       V[t] = v_reset where S[t] = 1, or U[t] - v_threshold S[t] (v_reset=None)

IFNode              f = V + X
LIFNode             f = V + (X - (V - v_reset)) / tau
ParametricLIFNode   the same with a learned 1/tau
QIFNode, EIFNode    a quadratic or an exponential f
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from spikeformers.errors import ConfigError
from spikeformers.neurons._adapter import Adapter, Arithmetic, bound, surrogate_of

_FIXED = {"step_mode": "s", "backend": "torch", "store_v_seq": False}


class SpikingJelly(Adapter):
    """A neuron of SpikingJelly; ``surrogate_function`` is a name such as "ATan"."""

    title, package = "SpikingJelly", "spikingjelly"
    module = "spikingjelly.activation_based.neuron"
    classes: ClassVar[dict[str, Arithmetic]] = {
        "IFNode": Arithmetic(add=2, mult=0),
        "LIFNode": Arithmetic(add=3, mult=1),
        "ParametricLIFNode": Arithmetic(add=3, mult=1),
        "QIFNode": Arithmetic(add=5, mult=3),
        "EIFNode": Arithmetic(add=6, mult=3, function=1),
    }

    def build(self, constructor: Any, options: dict[str, Any]) -> nn.Module:
        for key, value in _FIXED.items():
            if options.pop(key, value) != value:
                raise ConfigError(
                    f"{key} of SpikingJelly is {value!r} here: the adapter runs single steps in "
                    "PyTorch and keeps no history."
                )
        if options.get("surrogate_function") is not None:
            surrogates = self.library("spikingjelly.activation_based.surrogate")
            options["surrogate_function"] = surrogate_of(
                surrogates, options["surrogate_function"], "surrogate_function"
            )
        neuron: nn.Module = constructor(**options)
        return neuron

    def call(self, current: Tensor, state: Any) -> tuple[Tensor, Any]:
        neuron: Any = self.inner
        neuron.reset()
        for name, value in (state or {}).items():
            setattr(neuron, name, value)
        spikes = neuron(current)
        return spikes, dict(neuron.named_memories())

    def forget(self) -> None:
        neuron: Any = self.inner
        neuron.reset()


def from_spikingjelly(kind: str | type, **options: Any) -> type[Adapter]:
    """A class for `register_neuron`: SpikingJelly's ``kind`` with these arguments.

    ``kind`` is "IFNode", "LIFNode", "ParametricLIFNode", "QIFNode" or "EIFNode", or the class
    itself. In a config the same neuron is ``neuron="spikingjelly", neuron_options={"class": kind,
    **options}``. Raises ConfigError if SpikingJelly is missing or refuses the arguments.
    """
    return bound(SpikingJelly, kind, options)
