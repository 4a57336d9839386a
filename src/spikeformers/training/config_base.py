"""The base of the training configs: typed fields, and a round trip through plain values.

YAML and the command line give text, numbers and lists; ``typed`` converts them to the type of the
field or raises ``ConfigError``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar, TypeVar

from spikeformers.errors import ConfigError, nearest
from spikeformers.values import misfit

Config = TypeVar("Config", bound="ConfigBase")

TYPES: dict[str, Any] = {
    **{"bool": bool, "str": str, "int": int, "float": float},
    "tuple[float, float]": tuple[float, float],
}
"""Annotations of the config classes, and the types that they stand for."""


class ConfigBase:
    """Base of frozen dataclasses whose fields have one of ``TYPES``."""

    key_name: ClassVar[str] = "key"
    """The word for one of the keys in messages, "training key" for example."""

    def convert_fields(self, *, without: tuple[str, ...] = ()) -> None:
        """Convert every field but those in ``without`` to its type; ConfigError if one cannot be.

        Call it in ``__post_init__``.
        """
        for field in fields(self):  # type: ignore[arg-type]
            if field.name not in without:
                value = typed(field.name, str(field.type), getattr(self, field.name))
                object.__setattr__(self, field.name, value)

    def as_dict(self) -> dict[str, Any]:
        """The values in a form that JSON and YAML can hold: tuples become lists."""
        values = dataclasses.asdict(self)  # type: ignore[call-overload]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls: type[Config], values: Mapping[str, Any]) -> Config:
        """Build from plain values; ConfigError for an unknown key suggests the nearest."""
        names = [field.name for field in fields(cls)]  # type: ignore[arg-type]
        for key in values:
            if key not in names:
                raise ConfigError(
                    f"Unknown {cls.key_name} {key!r}.{nearest(str(key), names)} "
                    f"Known: {', '.join(names)}."
                )
        return cls(**values)


def require(holds: bool, name: str, value: object, condition: str) -> None:
    """Raise ``ConfigError`` ("name is value; it must be condition") unless the condition holds."""
    if not holds:
        raise ConfigError(f"{name} is {value!r}; it must be {condition}.")


def typed(name: str, kind: str, value: Any) -> Any:
    """``value`` as the type of the field ``name``; ConfigError if it cannot be converted.

    YAML reads 1e-3 as text, so numbers in text are accepted.
    """
    problem = ConfigError(misfit(name, value, TYPES[kind]))
    if kind == "bool" or isinstance(value, bool):
        if kind != "bool" or not isinstance(value, bool):
            raise problem
        return value
    if kind == "str":
        if not isinstance(value, str):
            raise problem
        return value
    try:
        if kind.startswith("tuple"):
            first, second = map(float, value)
            if not (math.isfinite(first) and math.isfinite(second)):
                raise problem
            return (first, second)
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise problem from None
    if not math.isfinite(number) or (kind == "int" and number != int(number)):
        raise problem
    return int(value if isinstance(value, int) else number) if kind == "int" else number
