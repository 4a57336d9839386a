"""Parts from outside the package: registered by hand, or found by an entry point."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from spikeformers import registry
from spikeformers.errors import ConfigError
from spikeformers.registry import Registry


def check(name: str, part: int) -> None:
    if part < 0:
        raise ConfigError(f"{name} must be positive")


@pytest.fixture
def numbers(monkeypatch: pytest.MonkeyPatch) -> Registry[int]:
    """1 is ours; two packages offer 3 (``sys:maxsize``) and something that cannot be imported."""
    points = [
        EntryPoint("three", "sys:maxsize", "group"),
        EntryPoint("broken", "no_such_package:part", "group"),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == "group" else [])
    return Registry("number", "group", {"one": 1}, check)


def test_a_registered_part_is_found_beside_our_own(numbers: Registry[int]) -> None:
    assert numbers.register("two", 2) == 2
    assert (numbers["one"], numbers["two"]) == (1, 2)
    assert list(numbers) == ["one", "two", "three", "broken"]
    assert len(numbers) == 4
    numbers.register("two", 22)  # as when a notebook's cell runs again
    assert numbers["two"] == 22


def test_an_entry_point_is_imported_when_it_is_asked_for(numbers: Registry[int]) -> None:
    assert "three" in numbers
    assert numbers["three"] == __import__("sys").maxsize
    with pytest.raises(ConfigError, match=r"'broken' \(no_such_package:part\) cannot be imported"):
        numbers["broken"]


def test_what_cannot_be_registered(numbers: Registry[int]) -> None:
    with pytest.raises(ConfigError, match="'one' is a number of spikeformers itself"):
        numbers.register("one", 11)
    with pytest.raises(ConfigError, match="needs a name"):
        numbers.register(" ", 2)
    with pytest.raises(ConfigError, match="two must be positive"):
        numbers.register("two", -2)
    assert "two" not in numbers


def test_an_unknown_name_is_an_error_that_lists_the_known(numbers: Registry[int]) -> None:
    with pytest.raises(KeyError):
        numbers["four"]
    with pytest.raises(ConfigError, match=r"count='thre' is unknown; one of one, three, broken"):
        numbers.get_or_refuse("thre", "count")
    with pytest.raises(ConfigError, match=r"Did you mean 'three'\?.*spikeformers.register_number"):
        numbers.get_or_refuse("thre", "count")
