"""Parts by name: the package's own, and those that come from outside.

A researcher's neuron, attention or model joins in one of two ways:

    spikeformers.register_neuron("mine", Mine)              in the program that uses it, or

    [project.entry-points."spikeformers.neurons"]           in their package's pyproject.toml, which
    mine = "my_package.mine:Mine"                            is then found without an import

The groups of entry points are ``spikeformers.neurons``, ``spikeformers.attentions`` and
``spikeformers.models``. A name that is not the package's own and was not registered is looked up
among the entry points; none of them is loaded before it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from spikeformers.errors import ConfigError, nearest

Part = TypeVar("Part")


class Registry(Mapping[str, Part], Generic[Part]):
    """A mapping from names to parts that grows by ``register``.

    ``what`` names a part in messages ("neuron"), ``group`` is the group of its entry points, and
    ``check`` raises ConfigError for what cannot be such a part.
    """

    def __init__(
        self,
        what: str,
        group: str,
        own: Mapping[str, Part],
        check: Callable[[str, Part], None],
    ) -> None:
        self.what, self.group = what, group
        self._parts: dict[str, Part] = dict(own)
        self._own = frozenset(own)
        self._check = check

    def register(self, name: str, part: Part) -> Part:
        """Make ``part`` known as ``name`` and return it; a second part replaces the first.

        Raises ConfigError for a name of the package's own, an empty one, or an unfit part.
        """
        if not name or name != name.strip():
            raise ConfigError(f"a {self.what} needs a name without blanks around it, not {name!r}.")
        if name in self._own:
            raise ConfigError(
                f"{name!r} is a {self.what} of spikeformers itself; register yours under another "
                "name."
            )
        self._check(name, part)
        self._parts[name] = part
        return part

    def __getitem__(self, name: str) -> Part:
        """The part called ``name``; KeyError where there is none, as of any mapping."""
        if name not in self._parts:
            self.register(name, self._load(self._entry_points[name]))
        return self._parts[name]

    def get_or_refuse(self, name: str, key: str) -> Part:
        """The part called ``name``, asked for by the field ``key``; ConfigError names the known."""
        if name not in self:
            known = ", ".join(self)
            raise ConfigError(
                f"{key}={name!r} is unknown; one of {known}.{nearest(name, self)} A {self.what} of "
                f"your own has to be registered first: spikeformers.register_{self.what}."
            )
        return self[name]

    def __contains__(self, name: object) -> bool:
        return name in self._parts or name in self._entry_points

    def __iter__(self) -> Iterator[str]:
        yield from self._parts
        yield from (name for name in self._entry_points if name not in self._parts)

    def __len__(self) -> int:
        return len(set(self._parts) | set(self._entry_points))

    @cached_property
    def _entry_points(self) -> dict[str, EntryPoint]:
        # Looking through all installed packages takes milliseconds, and configs ask often.
        return {point.name: point for point in entry_points(group=self.group)}

    def _load(self, point: EntryPoint) -> Part:
        try:
            part: Part = point.load()
        except Exception as error:  # another package's import may raise anything
            raise ConfigError(
                f"the {self.what} {point.name!r} ({point.value}) cannot be imported: "
                f"{type(error).__name__}: {error}"
            ) from error
        return part
