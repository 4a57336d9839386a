"""The trained maps from the student's sizes to the teacher's; they are not part of the student."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from spikeformers.training.distillation.config import SpADConfig
from spikeformers.training.distillation.mapping import Alignment


class Projections(nn.Module):
    """EA: a linear map; SAA: a linear map over heads per layer; SFA: MLP and LayerNorm per layer.

    Only the maps that the active terms and different sizes require exist. Initial values depend
    only on ``seed``, not on which other terms are active.
    """

    def __init__(self, alignment: Alignment, spad: SpADConfig, seed: int) -> None:
        super().__init__()
        s, t = alignment.student, alignment.teacher
        layers, active = len(alignment.layers), spad.active
        self.embedding: nn.Module = nn.Identity()
        with _drawn_from(seed, 1):
            if "ea" in active and s.width != t.width:
                self.embedding = nn.Linear(s.width, t.width, bias=False)
        mapped = "saa" in active and s.heads != t.heads
        self.heads = nn.ModuleList(
            HeadMap(s.heads, t.heads, learned=spad.saa_heads == "learned")
            for _ in range(layers if mapped else 0)
        )
        projected = "sfa" in active and (spad.sfa_project_always or s.width != t.width)
        with _drawn_from(seed, 2):
            self.features = nn.ModuleList(
                _mlp(s.width, spad.sfa_hidden or t.width, t.width)
                for _ in range(layers if projected else 0)
            )

    def attentions(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """One ``[B, H_s, T, J]`` per layer to one ``[B, H_t, T, J]`` per layer."""
        if not self.heads:
            return list(maps)
        return [project(x) for project, x in zip(self.heads, maps, strict=True)]

    def hidden(self, features: Sequence[Tensor]) -> list[Tensor]:
        """One ``[B, T, D_s]`` per layer to one F ``[B, T, D_t]`` per layer."""
        if not self.features:
            return list(features)
        return [mlp(x) for mlp, x in zip(self.features, features, strict=True)]


class HeadMap(nn.Module):
    """``A_t = sum_s W[t, s] A_s``; rows initially average or repeat the heads at their position."""

    def __init__(self, student: int, teacher: int, *, learned: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(neighbours(student, teacher), requires_grad=learned)

    def forward(self, maps: Tensor) -> Tensor:
        return torch.einsum("ts,bsqk->btqk", self.weight, maps)


def neighbours(student: int, teacher: int) -> Tensor:
    """``W[t, s]``: the share of t's interval in [0, 1] that s's interval covers; rows sum to 1."""
    t = torch.arange(teacher, dtype=torch.float64)[:, None] / teacher
    s = torch.arange(student, dtype=torch.float64)[None, :] / student
    both = torch.minimum(t + 1 / teacher, s + 1 / student) - torch.maximum(t, s)
    return (both.clamp_min(0) * teacher).float()


@contextmanager
def _drawn_from(seed: int, stream: int) -> Iterator[None]:
    """A separate stream of random numbers, which does not change the run's generator."""
    (mixed,) = np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(mixed) % 2**63)
        yield


def _mlp(width: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, out), nn.LayerNorm(out)
    )
