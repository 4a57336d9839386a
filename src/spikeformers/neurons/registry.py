"""Neurons by the name that ``neuron`` of a config gives; a new one of ours is one line here."""

from __future__ import annotations

from spikeformers.errors import ConfigError
from spikeformers.neurons._base import Neuron
from spikeformers.neurons.dead_zone import DeadZone
from spikeformers.neurons.ilif import ILIF
from spikeformers.neurons.lif import LIF
from spikeformers.neurons.nilif import NILIF
from spikeformers.neurons.norse import Norse
from spikeformers.neurons.snntorch import SNNTorch
from spikeformers.neurons.spikingjelly import SpikingJelly
from spikeformers.neurons.tlif import TLIF
from spikeformers.registry import Registry


def _check(name: str, kind: type[Neuron]) -> None:
    if not (isinstance(kind, type) and issubclass(kind, Neuron)):
        raise ConfigError(
            f"neuron {name!r} must be a class derived from spikeformers.neurons.Neuron, not "
            f"{kind!r}."
        )


LIBRARIES: dict[str, type[Neuron]] = {
    "snntorch": SNNTorch,
    "spikingjelly": SpikingJelly,
    "norse": Norse,
}
"""Neurons of other libraries, whose class ``neuron_options`` names."""
NEURONS: Registry[type[Neuron]] = Registry(
    "neuron",
    "spikeformers.neurons",
    {"ni-lif": NILIF, "i-lif": ILIF, "lif": LIF, "t-lif": TLIF, "dead-zone": DeadZone, **LIBRARIES},
    _check,
)


def register_neuron(name: str, kind: type[Neuron]) -> type[Neuron]:
    """Register a neuron of your own, which configs then name: ``neuron="mine"``.

    ``kind`` derives from `Neuron`, whose docstring lists what it has to define; ``from_config`` may
    read options of its own from ``config.neuron_options``. Raises ConfigError for a built-in name
    or a class that is not a neuron.
    """
    return NEURONS.register(name, kind)
