"""Projections exist where they are needed, and begin where they should."""

from __future__ import annotations

import torch

from spikeformers.training.distillation.config import SpADConfig
from spikeformers.training.distillation.mapping import ModelSizes, align
from spikeformers.training.distillation.projections import HeadMap, Projections, neighbours

SMALL, LARGE = ModelSizes(2, 2, 8, 99), ModelSizes(3, 3, 12, 99)


def names(student: ModelSizes, teacher: ModelSizes, spad: SpADConfig) -> set[str]:
    parameters = Projections(align(student, teacher, spad), spad, 0).named_parameters()
    return {name.partition(".")[0] for name, _ in parameters}


def test_only_needed_projections_exist() -> None:
    assert names(SMALL, LARGE, SpADConfig()) == {"embedding", "heads", "features"}
    assert names(SMALL, SMALL, SpADConfig()) == {"features"}  # also where the shapes agree
    assert names(SMALL, SMALL, SpADConfig(sfa_project_always=False)) == set()
    assert names(SMALL, LARGE, SpADConfig(sfa_project_always=False)) == {
        *("embedding", "heads", "features"),
    }
    assert names(SMALL, LARGE, SpADConfig(ea=0, saa=0, sfa=0)) == set()


def test_neighbouring_heads() -> None:
    assert neighbours(4, 2).tolist() == [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]  # averaged
    assert neighbours(2, 4).tolist() == [[1, 0], [1, 0], [0, 1], [0, 1]]  # repeated
    third = 1 / 3
    torch.testing.assert_close(
        neighbours(2, 3), torch.tensor([[1.0, 0], [0.5, 0.5], [0, 1.0]]), rtol=0, atol=1e-6
    )
    torch.testing.assert_close(
        neighbours(3, 2), torch.tensor([[2 * third, third, 0], [0, third, 2 * third]])
    )


def test_a_head_map_mixes_heads() -> None:
    maps = torch.stack([torch.zeros(2, 2), torch.ones(2, 2)])[None]
    assert HeadMap(2, 1, learned=True)(maps).tolist() == [[[[0.5, 0.5], [0.5, 0.5]]]]
    assert not HeadMap(2, 1, learned=False).weight.requires_grad


def test_the_feature_projection_is_mlp_and_layer_norm() -> None:
    spad = SpADConfig(sfa_hidden=5)
    projections = Projections(align(SMALL, LARGE, spad), spad, 0)
    assert [tuple(p.shape) for p in projections.features[0].parameters()] == [
        (5, 8), (5,), (12, 5), (12,), (12,), (12,),
    ]  # fmt: skip
    (projected, _) = projections.hidden([torch.randn(2, 3, 8), torch.randn(2, 3, 8)])
    torch.testing.assert_close(projected.mean(-1), torch.zeros(2, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(projected.var(-1, correction=0), torch.ones(2, 3), atol=1e-2, rtol=0)


def test_initial_values_depend_on_the_seed_alone() -> None:
    spad = SpADConfig()
    alignment = align(SMALL, LARGE, spad)
    torch.manual_seed(5)
    first = Projections(alignment, spad, 3)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), after)  # nothing was drawn from the run's generator
    torch.manual_seed(6)
    two = Projections(alignment, spad, 3)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), two.parameters(), strict=True))
