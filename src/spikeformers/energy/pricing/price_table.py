"""Price tables of the full estimate: YAML files, every number with its unit and its source.

A table prices operations by kind and type (``compute``) and accesses by memory level (``memory``,
smallest level first). docs/energy.md has the schema; ``price_tables/`` holds the built-in tables. A
file with any mistake is refused with a message that names it; nothing is repaired.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from spikeformers.errors import ConfigError, nearest
from spikeformers.foreign import foreign, read_text

NEEDED: dict[str, tuple[str, ...]] = {
    "add": ("int32", "fp32"),
    "multiply": ("int8", "fp16", "fp32"),
    "compare": ("fp32",),
    "function": ("fp32",),
    "logic": ("bit",),
}
TYPES = ("bit", "int8", "int16", "int32", "fp16", "bf16", "fp32")
ENERGY_UNITS = {"fJ": 1e-3, "pJ": 1.0, "nJ": 1e3}
SIZE_UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_KEYS = ("name", "about", "compute", "memory")
_LEVEL_KEYS = ("name", "capacity", "bits", "energy", "source")
_AMOUNT = re.compile(r"^\s*([-+]?\d*\.?\d+(?:[eE][-+]?\d+)?)\s*([A-Za-z]*)\s*$")


@dataclass(frozen=True)
class Cost:
    """Energy of one operation in picojoules, and the source of the figure."""

    picojoules: float
    source: str


@dataclass(frozen=True)
class Level:
    """A memory of ``capacity`` bytes; None for the last level, which holds everything."""

    name: str
    capacity: int | None
    bits: int
    """Width of one access."""
    cost: Cost
    """Energy of one access."""

    @property
    def picojoules_per_bit(self) -> float:
        """Picojoules per bit of an access of full width."""
        return self.cost.picojoules / self.bits


@dataclass(frozen=True)
class PriceTable:
    """Prices by (kind, type), and the memory hierarchy."""

    name: str
    about: str
    compute: Mapping[tuple[str, str], Cost]
    memory: tuple[Level, ...]

    def home(self, size: float) -> Level:
        """The smallest memory, other than registers, that holds ``size`` bits."""
        for level in self.memory[1:]:
            if level.capacity is None or size <= 8 * level.capacity:
                return level
        raise AssertionError("the last level holds everything")

    def level(self, name: str) -> Level:
        """A memory level by name; ConfigError for an unknown one suggests the nearest."""
        for level in self.memory:
            if level.name == name:
                return level
        names = [level.name for level in self.memory]
        raise ConfigError(
            f"price table {self.name} has no memory {name!r}; it has {', '.join(names)}."
            f"{nearest(name, names)}"
        )

    def scaled(self, price: str, factor: float) -> PriceTable:
        """The table with one price, named as in ``keys``, multiplied by ``factor``."""
        compute = {
            key: replace(cost, picojoules=cost.picojoules * factor)
            if " ".join(key) == price
            else cost
            for key, cost in self.compute.items()
        }
        memory = tuple(
            replace(level, cost=replace(level.cost, picojoules=level.cost.picojoules * factor))
            if level.name == price
            else level
            for level in self.memory
        )
        return replace(self, compute=compute, memory=memory)

    @property
    def keys(self) -> list[str]:
        """Names of all prices: "add fp32", "DRAM" ..."""
        return [" ".join(key) for key in self.compute] + [level.name for level in self.memory]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "name": self.name,
            "about": self.about,
            "compute": {" ".join(key): asdict(cost) for key, cost in self.compute.items()},
            "memory": [
                {"name": level.name, "capacity_bytes": level.capacity, "bits": level.bits}
                | asdict(level.cost)
                for level in self.memory
            ],
        }


@cache
def built_in() -> tuple[str, ...]:
    """Names of the built-in tables."""
    folder = resources.files("spikeformers.energy.pricing") / "price_tables"
    return tuple(sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".yaml")))


def load_table(source: str) -> PriceTable:
    """The built-in table of this name, or one from a file. ConfigError names what is wrong."""
    if source in built_in():
        packaged = (
            resources.files("spikeformers.energy.pricing") / "price_tables" / f"{source}.yaml"
        )
        return read_table(packaged.read_text(encoding="utf-8"), source)
    path = Path(source)
    if not path.is_file():
        names = ", ".join(built_in())
        raise ConfigError(
            f"there is no price table {source!r}: it is neither built in ({names}) nor a file."
            f"{nearest(source, built_in())}"
        )
    return read_table(read_text(path, ConfigError), source)


def read_table(text: str, where: str) -> PriceTable:
    """A table from YAML; ``where`` names it in errors (ConfigError)."""
    import yaml

    with foreign(f"price table {where} is not valid YAML", ConfigError):
        content = yaml.safe_load(text)
    content = _mapping(content, where, "the file")
    _check_keys(content, _KEYS, where, "the file", needed=_KEYS)
    compute = _compute(content["compute"], where)
    memory = _memory(content["memory"], where)
    return PriceTable(str(content["name"]), str(content["about"]), compute, memory)


def _compute(content: Any, where: str) -> dict[tuple[str, str], Cost]:
    kinds = _mapping(content, where, "compute")
    _check_keys(kinds, tuple(NEEDED), where, "compute", needed=tuple(NEEDED))
    costs = {}
    for kind, needed in NEEDED.items():
        types = _mapping(kinds[kind], where, f"compute.{kind}")
        _check_keys(types, TYPES, where, f"compute.{kind}", needed=needed)
        for name, entry in types.items():
            place = f"compute.{kind}.{name}"
            fields = _mapping(entry, where, place)
            _check_keys(fields, ("energy", "source"), where, place, needed=("energy", "source"))
            costs[kind, name] = _cost(fields, where, place)
    return costs


def _memory(content: Any, where: str) -> tuple[Level, ...]:
    if not isinstance(content, list) or len(content) < 2:
        raise ConfigError(
            f"price table {where}: memory is a list of at least two levels, registers first and "
            f"the one that holds everything last, not {_kind(content)}."
        )
    levels: list[Level] = []
    for number, entry in enumerate(content):
        place, last = f"memory[{number}]", number == len(content) - 1
        fields = _mapping(entry, where, place)
        needed = [key for key in _LEVEL_KEYS if key != "capacity" or not last]
        _check_keys(fields, _LEVEL_KEYS, where, place, needed=tuple(needed))
        capacity = None
        if last and "capacity" in fields:
            raise ConfigError(
                f"price table {where}: {place}, the last level, holds everything and takes no "
                "capacity. Leave it out, or add a level below it."
            )
        if not last:
            capacity = int(_amount(fields["capacity"], SIZE_UNITS, where, f"{place}.capacity"))
            if levels and levels[-1].capacity is not None and capacity <= levels[-1].capacity:
                raise ConfigError(
                    f"price table {where}: {place} holds {capacity:,} bytes, no more than the "
                    "level before it. List memories from small to large."
                )
        bits = fields["bits"]
        if not isinstance(bits, int) or isinstance(bits, bool) or bits < 1:
            raise ConfigError(
                f"price table {where}: {place}.bits is the width of an access, a whole number "
                f"above 0, not {bits!r}."
            )
        if str(fields["name"]) in [level.name for level in levels]:
            raise ConfigError(f"price table {where}: two memories are called {fields['name']!r}.")
        levels.append(Level(str(fields["name"]), capacity, bits, _cost(fields, where, place)))
    return tuple(levels)


def _cost(fields: Mapping[str, Any], where: str, place: str) -> Cost:
    source = fields["source"]
    if not isinstance(source, str) or not source.strip():
        raise ConfigError(
            f"price table {where}: {place}.source says where the number is from, in words, "
            f"not {source!r}."
        )
    return Cost(_amount(fields["energy"], ENERGY_UNITS, where, f"{place}.energy"), source)


def _amount(value: Any, units: Mapping[str, float], where: str, place: str) -> float:
    """``"0.9 pJ"`` as a number in the unit of size 1."""
    match = _AMOUNT.match(str(value)) if isinstance(value, (str, int, float)) else None
    names = ", ".join(units)
    if match is None or not match[2]:
        raise ConfigError(
            f"price table {where}: {place} is a number and its unit ({names}), not {value!r}."
        )
    if match[2] not in units:
        raise ConfigError(
            f"price table {where}: {place} has an unknown unit {match[2]!r}; known: {names}."
            f"{nearest(match[2], units)}"
        )
    number = float(match[1]) * units[match[2]]
    if number < 0 or not math.isfinite(number):
        raise ConfigError(f"price table {where}: {place} must not be negative, and is {value!r}.")
    return number


def _mapping(value: Any, where: str, place: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(
            f"price table {where}: {place} is a mapping of names to values, not {_kind(value)}."
        )
    return value


def _check_keys(
    fields: Mapping[str, Any], allowed: tuple[str, ...], where: str, place: str, needed: Any
) -> None:
    for key in fields:
        if key not in allowed:
            raise ConfigError(
                f"price table {where}: unknown key {str(key)!r} in {place}; known: "
                f"{', '.join(allowed)}.{nearest(str(key), allowed)}"
            )
    for key in needed:
        if key not in fields:
            close = nearest(key, [str(k) for k in fields])
            raise ConfigError(
                f"price table {where}: {place} lacks {key!r}; it needs {', '.join(needed)}.{close}"
            )


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
