"""Parts by name: the package's own, and those that other packages add.

There are two ways to add a neuron, an attention or a model of your own:

    spikeformers.register_neuron("mine", Mine)              in the program that uses it, or

    [project.entry-points."spikeformers.neurons"]           in your package's pyproject.toml, and no
    mine = "my_package.mine:Mine"                            import is needed

The groups of entry points are ``spikeformers.neurons``, ``spikeformers.attentions`` and
``spikeformers.models``. A name that is neither built in nor registered is looked up among the entry
points; each of them is loaded at its first use.
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

    ``noun`` is the word for a part in messages ("neuron"), ``group`` is the group of its entry
    points, and ``check`` raises ConfigError for an object that cannot be such a part.
    """

    def __init__(
        self,
        noun: str,
        group: str,
        own: Mapping[str, Part],
        check: Callable[[str, Part], None],
    ) -> None:
        self.noun, self.group = noun, group
        self._parts: dict[str, Part] = dict(own)
        self._own = frozenset(own)
        self._check = check

    def register(self, name: str, part: Part) -> Part:
        """Register ``part`` under ``name`` and return it; a second registration replaces the first.

        Raises ConfigError for a built-in or empty name, or a part that ``check`` refuses.
        """
        if not name or name != name.strip():
            raise ConfigError(f"a {self.noun} needs a name without blanks around it, not {name!r}.")
        if name in self._own:
            raise ConfigError(
                f"{name!r} is a {self.noun} of spikeformers itself; register yours under another "
                "name."
            )
        self._check(name, part)
        self._parts[name] = part
        return part

    def __getitem__(self, name: str) -> Part:
        """The part called ``name``; KeyError if there is none, as in any mapping."""
        if name not in self._parts:
            self.register(name, self._load(self._entry_points[name]))
        return self._parts[name]

    def get_or_refuse(self, name: str, key: str) -> Part:
        """The part called ``name``, which the field ``key`` holds; ConfigError lists the names."""
        if name not in self:
            names = ", ".join(self)
            raise ConfigError(
                f"{key}={name!r} is unknown; one of {names}.{nearest(name, self)} A {self.noun} of "
                f"your own has to be registered first: spikeformers.register_{self.noun}."
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
                f"the {self.noun} {point.name!r} ({point.value}) cannot be imported: "
                f"{type(error).__name__}: {error}"
            ) from error
        return part
