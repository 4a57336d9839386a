from __future__ import annotations

import pytest
import torch
from torch import Tensor

from spikeformers.energy.auditing.operand_history import (
    OperandHistory,
    history_of,
    history_of_number,
)
from spikeformers.energy.counting.operands import Spikes


def side(*values: float, stated: Spikes | None = None) -> OperandHistory:
    return history_of(torch.tensor(values), stated, constant=False)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ((0.0, 0.7, 0.7), "binary"),
        ((-1.0, 0.0, 1.0), "ternary"),
        ((0.0, 1.0, 3.0), "integer"),
        ((0.3, 0.5, 0.9), "real"),
        ((0.0, 0.0), "silent"),
        ((0.0, 0.7), "real"),  # one number is a multiple of itself
    ],
)
def test_kinds_by_value(values: tuple[float, ...], kind: str) -> None:
    assert side(*values).kind == kind
    assert side(*values).is_spikes == (kind in ("binary", "ternary", "integer"))


def test_spikes_stated_by_a_neuron_need_no_evidence() -> None:
    silent = side(0.0, 0.0, stated=Spikes("ternary", 0.5))
    assert (silent.kind, silent.source, silent.density) == ("ternary", "neuron", 0.0)
    wrong = side(0.0, 0.2, 0.7, stated=Spikes("ternary", 0.5))
    assert (wrong.kind, wrong.source) == ("real", "values")


def test_booleans_are_binary() -> None:
    mask = history_of(torch.zeros(3, dtype=torch.bool), None, constant=False)
    assert (mask.kind, mask.source) == ("binary", "boolean")


def test_complex_numbers_are_real_ones() -> None:
    assert history_of(torch.ones(3, dtype=torch.complex64), None, constant=True).kind == "real"


@pytest.mark.parametrize(
    ("first", "then", "kind"),
    [
        ((0.0, 0.5, 0.5), (0.5, 0.0, 0.5), "binary"),
        ((0.0, 0.5, 0.5), (0.0, 0.7, 0.7), "real"),  # no constant unit
        ((0.0, 0.5, 0.5), (1.0, 0.0, 1.0), "integer"),
        ((0.0, 0.5, 0.5), (0.5, -0.5, 0.0), "ternary"),
        ((0.0, 0.5, 0.5), (0.1, 0.2, 0.37), "real"),
        ((0.0, 0.0, 0.0), (0.0, 0.5, 0.5), "binary"),
        ((0.0, 0.5, 0.5), (0.0, 0.0, 0.0), "binary"),
        ((0.0, 0.0, 0.5), (0.0, 0.0, 0.5), "binary"),
        ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), "silent"),
    ],
)
def test_two_calls(first: tuple[float, ...], then: tuple[float, ...], kind: str) -> None:
    both = side(*first)
    both.merge(side(*then))
    assert both.kind == kind
    assert both.size == 6


def test_a_neuron_and_values_are_values() -> None:
    both = side(0.0, 1.0, 1.0, stated=Spikes("binary", 1.0))
    both.merge(side(0.0, 1.0, 1.0))
    assert (both.kind, both.source) == ("binary", "values")
    assert both.density == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("number", "shift"), [(1, True), (-0.25, True), (0, True), (16, True), (3, False), (0.9, False)]
)
def test_powers_of_two_are_shifts(number: float, shift: bool) -> None:
    assert history_of_number(number).shift == shift
    assert history_of(torch.tensor([1.0, 0.0, number]), None, constant=True).shift == shift
    assert not history_of(torch.tensor([number]), None, constant=False).shift


def test_plain_values() -> None:
    x: Tensor = torch.tensor([[0.0, 0.5], [0.5, 0.0]])
    assert history_of(x, None, constant=False).as_dict() == {
        "kind": "binary",
        "unit_per": None,
        "source": "values",
        "density": 0.5,
        "unit": 0.5,
        "signed": False,
        "constant": False,
        "shape": [2, 2],
    }
