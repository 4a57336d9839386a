"""Neurons of other libraries inside our models: their own modules, run step by step.

    spikes[t], state[t] = theirs(current[t], state[t-1])

A config names such a neuron in plain values, so that a saved model needs no pickle:

    {"neuron": "snntorch", "neuron_options": {"class": "Leaky", "beta": 0.9}}

The library is imported when the neuron is built. The carry is the state of their module, which is
handed over and taken back at every step: nothing stays in it between calls.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from spikeformers.errors import ConfigError, nearest
from spikeformers.foreign import foreign
from spikeformers.neurons._base import Neuron
from spikeformers.values import shortened

Kind = TypeVar("Kind", bound="Adapter")
Options = Mapping[str, Any]


@dataclass(frozen=True)
class Arithmetic:
    """Elementwise operations per value and step, counted from the update equations."""

    add: int
    mult: int
    function: int = 0


class Adapter(Neuron):
    """Base of the adapters; a subclass builds the other library's module and calls it.

    ``kind`` is the name of their class, ``options`` are the arguments of its constructor as plain
    values. Raises ConfigError if the library is missing, the class is not one of ``classes``, or
    its constructor refuses the options.
    """

    spike_type = "binary"
    title: ClassVar[str]
    """The library's name in sentences."""
    package: ClassVar[str]
    """The name by which it is installed."""
    module: ClassVar[str]
    """The module that has the classes."""
    classes: ClassVar[Mapping[str, Arithmetic]]
    """Classes that have been compared with their originals, step by step."""

    def __init__(self, kind: str, options: Options | None = None) -> None:
        super().__init__()
        if kind not in self.classes:
            raise ConfigError(
                f"{self.title}'s {kind!r} is not supported; one of {', '.join(self.classes)}."
                f"{nearest(kind, self.classes)}"
            )
        self.kind, self.options = kind, dict(options or {})
        self.inner = self._built()

    @classmethod
    def from_config(cls: type[Kind], config: Any) -> Kind:
        """As ``neuron_options`` describe it: ``class`` and the arguments of its constructor."""
        options = dict(config.neuron_options or {})
        kind = options.pop("class", None)
        if not isinstance(kind, str):
            raise ConfigError(
                f"a neuron of {cls.title} needs neuron_options with 'class', one of "
                f"{', '.join(cls.classes)}, and the arguments of its constructor."
            )
        return cls(kind, options)

    @classmethod
    def library(cls, name: str = "") -> Any:
        """A module of the library, by default the one with its classes. Raises ConfigError."""
        try:
            return importlib.import_module(name or cls.module)
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"neurons of {cls.title} need its package: pip install {cls.package} (without a "
                f"second torch: pip install --no-deps {cls.package}). Missing: {error.name}."
            ) from error

    def build(self, constructor: Any, options: dict[str, Any]) -> nn.Module:
        """The library's module of these options."""
        module: nn.Module = constructor(**options)
        return module

    def call(self, current: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One step of the library's module; ``state`` is None at the first."""
        raise TypeError(f"{type(self).__name__} does not define call()")

    def forget(self) -> None:
        """Remove state that the library's module has kept for itself."""

    def _built(self) -> nn.Module:
        constructor = getattr(self.library(), self.kind)
        values = ", ".join(f"{key}={shortened(value)}" for key, value in self.options.items())
        # On the processor even while Transformers builds models without memory: parameters that
        # are plain tensors of their module would be lost, since no checkpoint holds them.
        with (
            foreign(f"{self.title}'s {self.kind}({values}) cannot be built", ConfigError),
            torch.device("cpu"),
        ):
            return self.build(constructor, dict(self.options))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set learned parameters back to what the options say."""
        first = dict(self._built().state_dict())
        for name, value in self.inner.state_dict().items():
            value.copy_(first[name])

    def engine_spec(self) -> dict[str, Any]:
        raise ConfigError(
            f"the engine does not run {self.title}'s {self.kind}: it has its own neurons only "
            "(ni-lif, i-lif, lif). Train with one of them for the engine, or run this model in "
            "PyTorch."
        )

    def operations(self, values: int, steps: int) -> dict[str, int]:
        work = self.classes[self.kind]
        counted = {"add": work.add, "mult": work.mult, "function": work.function}
        return {"compare": values} | {key: n * values for key, n in counted.items() if n}

    def fire(self, u: Tensor) -> Tensor:
        """Spikes of the first step; the leading axis may be a single step."""
        spikes = self.call(u, None)[0]
        self.forget()
        return spikes

    def step(self, current: Tensor, carry: Any) -> tuple[Tensor, Any]:
        """Advance one simulation step; ``carry`` is the library's state, None at the first."""
        spikes, state = self.call(current, carry)
        self.forget()
        return spikes, state

    def extra_repr(self) -> str:
        return ", ".join([self.kind, *(f"{key}={value}" for key, value in self.options.items())])


def bound(adapter: type[Adapter], kind: str | type, options: Options) -> type[Adapter]:
    """A subclass of ``adapter`` of fixed kind and options, for ``register_neuron``.

    ``kind`` is the name of a class of the library, or the class. Raises ConfigError at once for
    what cannot be built.
    """
    name = kind if isinstance(kind, str) else kind.__name__
    fixed = dict(options)
    adapter(name, fixed)

    class Bound(adapter):  # type: ignore[misc,valid-type]
        def __init__(self) -> None:
            super().__init__(name, fixed)

        @classmethod
        def from_config(cls, config: Any) -> Any:
            if config.neuron_options:
                raise ConfigError(
                    f"the options of {adapter.title}'s {name} were fixed when it was registered; "
                    "leave neuron_options out."
                )
            return cls()

    Bound.__name__ = Bound.__qualname__ = f"{adapter.__name__}{name}"
    return Bound


def plain_tensor(value: Any) -> Any:
    """A list of numbers as a tensor, one number per neuron; any other value unchanged."""
    return torch.tensor(value, dtype=torch.float32) if isinstance(value, (list, tuple)) else value


def surrogate_of(module: Any, value: Any, key: str) -> Any:
    """What ``module`` makes of a surrogate that a config names.

    ``value`` is a name, or ``{"name": ..., arguments}``. Raises ConfigError for anything else.
    """
    if isinstance(value, str):
        value = {"name": value}
    if not (isinstance(value, Mapping) and isinstance(value.get("name"), str)):
        raise ConfigError(
            f"{key} is {shortened(value)}; a config holds plain values, so give the name of a "
            f"surrogate in {module.__name__}, or {{'name': ..., its arguments}}."
        )
    arguments = {name: argument for name, argument in value.items() if name != "name"}
    make = None if value["name"].startswith("_") else getattr(module, value["name"], None)
    if not callable(make) or not getattr(make, "__module__", "").startswith(module.__name__):
        raise ConfigError(f"{module.__name__} has no surrogate {value['name']!r}.")
    return make(**arguments)
