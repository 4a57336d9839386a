"""Types in words, and which values are of them."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytest

from spikeformers.errors import ConfigError
from spikeformers.values import bytes_in_words, fits, in_words, require_kind


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (int, "a whole number"),
        (float, "a number"),
        (bool, "true or false"),
        (str, "text"),
        (str | None, "text or null"),
        (list[int], "a list of whole numbers"),
        (list, "a list"),
        (tuple[float, float], "two numbers"),
        (dict[str, float], "a mapping of names to numbers"),
        (Literal["mean", "first"], "one of mean, first"),
    ],
)
def test_types_in_words(kind: Any, words: str) -> None:
    assert in_words(kind) == words


@pytest.mark.parametrize(
    ("value", "kind", "fit"),
    [
        (3, int, True),
        (3.0, int, False),
        (True, int, False),
        (3, float, True),
        (math.nan, float, False),
        (math.inf, float, False),
        (10**400, float, False),
        (True, float, False),
        (1, bool, False),
        (None, str | None, True),
        ([1, 2], list[int], True),
        ([1, "2"], list[int], False),
        ([0.9, 0.95], tuple[float, float], True),
        ([0.9], tuple[float, float], False),
        ({"a": 1}, dict[str, float], True),
        ({1: 1}, dict[str, float], False),
        ("mean", Literal["mean"], True),
    ],
    ids=str,
)
def test_values_of_a_type(value: Any, kind: Any, fit: bool) -> None:
    assert fits(value, kind) is fit


@pytest.mark.parametrize("value", ["nan", math.nan, "-inf", ".inf"])
def test_a_value_that_is_not_a_number_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"rate is .*; it must be a finite number\.$"):
        require_kind("rate", value, float)


def test_a_long_value_is_cut() -> None:
    with pytest.raises(ConfigError) as raised:
        require_kind("key", "x" * 10_000, int)
    assert str(raised.value) == f"key is '{'x' * 75} ...; it must be a whole number."


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1_536_000, "1.54 MB"), (2.5e15, "2.5e+03 TB")],
)
def test_bytes_in_words(count: float, words: str) -> None:
    assert bytes_in_words(count) == words
