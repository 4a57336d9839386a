"""Type checks of values that users give, with messages in plain words.

Types are written as in annotations: ``int``, ``float``, ``str``, ``bool``, ``list[int]``,
``tuple[float, float]``, ``dict[str, float]`` and unions of these and ``None``.
"""

from __future__ import annotations

import math
import types
from typing import Any, Literal, Union, get_args, get_origin

from spikeformers.errors import ConfigError

MOST_THREADS = 1024
"""Some systems cannot start more, and libraries that try then abort the process."""
LARGEST_SEED = (1 << 64) - 1
"""Seeds of PyTorch's generators have 64 bits."""

_WORDS: dict[Any, str] = {
    **{bool: "true or false", int: "a whole number", float: "a number", str: "text"},
    Any: "any value",
}
_PLURALS: dict[Any, str] = {
    **{bool: "true or false", int: "whole numbers", float: "numbers", str: "texts"},
    Any: "values",
}
_COUNTS = {2: "two", 3: "three"}


def in_words(kind: Any) -> str:
    """The type ``kind`` in plain words: "a whole number", "text or null", "two numbers"."""
    if kind in (None, type(None)):
        return "null"
    if kind in _WORDS:
        return _WORDS[kind]
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(in_words(part) for part in parts))
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if origin is tuple and Ellipsis not in parts:
        return f"{_COUNTS.get(len(parts), str(len(parts)))} {_plural(parts[0])}"
    if (origin or kind) in (list, tuple):
        return f"a list of {_plural(parts[0])}" if parts else "a list"
    if (origin or kind) is dict:
        return f"a mapping of names to {_plural(parts[1])}" if parts else "a mapping"
    return f"a {kind if isinstance(kind, str) else getattr(kind, '__name__', str(kind))}"


def fits(value: Any, kind: Any) -> bool:
    """Whether ``value`` has the type; an int is a valid float, NaN and infinity are not."""
    if kind is Any:
        return True
    if kind in (None, type(None)):
        return value is None
    if kind is float:
        return _is_number(value) and _is_finite(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if origin is Literal:
        return value in parts
    if origin is tuple and Ellipsis not in parts:
        sized = isinstance(value, (list, tuple)) and len(value) == len(parts)
        return sized and all(fits(item, part) for item, part in zip(value, parts, strict=True))
    if origin in (list, tuple):
        return isinstance(value, (list, tuple)) and all(fits(item, parts[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            fits(key, parts[0]) and fits(item, parts[1]) for key, item in value.items()
        )
    return isinstance(value, kind)


def require_kind(name: str, value: Any, kind: Any) -> None:
    """Raise ``ConfigError`` unless ``value`` has the type."""
    if not fits(value, kind):
        raise ConfigError(misfit(name, value, kind))


def misfit(name: str, value: Any, kind: Any) -> str:
    """The message for a value of the wrong type."""
    expected = in_words(kind)
    if str(value).strip("+-").lower() in ("nan", "inf", "infinity", ".nan", ".inf"):
        expected = expected.replace("a number", "a finite number")
    return f"{name} is {shortened(value)}; it must be {expected}."


def bytes_in_words(count: float) -> str:
    """A number of bytes with three digits and a decimal unit: "1.5 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"


def shortened(value: Any, longest: int = 80) -> str:
    """``repr`` of a value on one line, in printable characters, shortened if it is long."""
    text = repr(value)
    return text if len(text) <= longest else f"{text[: longest - 4]} ..."


def _plural(kind: Any) -> str:
    return _PLURALS.get(kind) or in_words(kind)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_finite(value: int | float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the range of floats
        return False
