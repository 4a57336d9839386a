"""Checks of a config's fields that name the field, what came, and what is taken."""

from __future__ import annotations

import math
from typing import Any

from spikeformers.errors import ConfigError, nearest


def one_of(config: Any, key: str, known: tuple[str, ...]) -> None:
    """ConfigError unless the field is one of ``known``."""
    value = getattr(config, key)
    if value not in known:
        raise ConfigError(
            f"{key}={value!r} is unknown; one of {', '.join(known)}.{nearest(value, known)}"
        )


def at_least_one(config: Any, key: str) -> None:
    """ConfigError unless the field is a whole number from 1."""
    value = getattr(config, key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigError(f"{key} must be a whole number, not {value!r}.")
    if value < 1:
        raise ConfigError(f"{key} must be at least 1, not {value}.")


def between(config: Any, key: str, low: float, high: float) -> None:
    """ConfigError unless the field is a number inside (low, high)."""
    value = getattr(config, key)
    if not isinstance(value, (int, float)) or not low < value < high:
        span = "greater than 0" if high == math.inf else "between 0 and 1"
        raise ConfigError(f"{key} must be a number {span}, not {value!r}.")
