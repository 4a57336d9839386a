"""Layers are paired last to last; what does not fit is refused."""

from __future__ import annotations

import pytest

from spikeformers.errors import ConfigError
from spikeformers.training.distillation.config import SpADConfig
from spikeformers.training.distillation.mapping import ModelSizes, align


def pairs(student: int, teacher: int, layer_map: tuple[int, ...] = ()) -> tuple[tuple[int, int]]:
    spad = SpADConfig(layer_map=layer_map)
    return align(ModelSizes(student, 2, 8, 99), ModelSizes(teacher, 2, 8, 99), spad).layers


def test_layers_are_spread_evenly() -> None:
    assert pairs(4, 12) == ((1, 3), (2, 6), (3, 9), (4, 12))
    assert pairs(4, 30) == ((1, 8), (2, 15), (3, 23), (4, 30))
    assert pairs(3, 3) == ((1, 1), (2, 2), (3, 3))
    assert pairs(4, 2) == ((1, 1), (2, 1), (3, 2), (4, 2))
    assert pairs(1, 5) == ((1, 5),)


def test_layers_by_a_given_map() -> None:
    assert pairs(3, 12, (0, 7, 12)) == ((2, 7), (3, 12))
    for wrong in ((1, 2), (1, 2, 13), (0, 0, 0)):
        with pytest.raises(ConfigError, match="from 1 to 12, or 0, for each of the student's 3"):
            pairs(3, 12, wrong)


def test_another_vocabulary() -> None:
    with pytest.raises(ConfigError, match=r"vocabulary of 98 and the teacher one of 99.*tokenizer"):
        align(ModelSizes(1, 1, 8, 98), ModelSizes(1, 1, 8, 99), SpADConfig())


def test_a_teacher_without_heads() -> None:
    with pytest.raises(ConfigError, match="leave out saa"):
        align(ModelSizes(1, 1, 8, 9), ModelSizes(1, 0, 8, 9), SpADConfig())
    align(ModelSizes(1, 1, 8, 9), ModelSizes(1, 0, 8, 9), SpADConfig(saa=0))


def test_the_description_lists_the_projections() -> None:
    same, other = ModelSizes(2, 4, 8, 99), ModelSizes(4, 6, 24, 99)
    spad = SpADConfig()
    assert align(same, other, spad).describe(spad) == [
        "ea: width 8 -> 24 (linear)",
        "layers, student->teacher: 1->2, 2->4 (of 2 and 4)",
        "saa: heads 4 -> 6 (learned)",
        "sfa: width 8 -> 24 -> 24 (MLP, LayerNorm)",
    ]
    plain = SpADConfig(sfa_project_always=False, saa=0)
    assert align(same, same, plain).describe(plain) == [
        "ea: width 8 on both sides",
        "layers, student->teacher: 1->1, 2->2 (of 2 and 2)",
        "sfa: width 8 on both sides",
    ]
    few = SpADConfig(ea=0, saa=0, sfa=0)
    assert align(same, other, few).describe(few) == []
