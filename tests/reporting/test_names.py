"""The room's public names, which are loaded when they are first used."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

from spikeformers import reporting


def test_every_name_is_a_function_or_a_class_whatever_was_imported_before() -> None:
    for file in pkgutil.iter_modules(reporting.__path__):
        importlib.import_module(f"spikeformers.reporting.{file.name}")
    for name in reporting.__all__:
        assert callable(getattr(reporting, name)), name


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'measure_pair'"):
        reporting.measure_pair  # noqa: B018
