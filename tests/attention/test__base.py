"""What all attention cores share."""

from __future__ import annotations

import math

import pytest
import torch

from spikeformers.attention import Attention, ScaledAttention
from spikeformers.attention._base import masked_softmax


def test_scores_are_scaled_before_the_bias() -> None:
    q = torch.tensor([[1.0, 2.0]])
    k = torch.tensor([[3.0, 1.0], [0.0, 2.0]])
    core = ScaledAttention(0.5)
    assert core.scores(q, k, None).tolist() == [[[2.5, 2.0]]]
    assert core.scores(q, k, torch.tensor([[1.0, -1.0]])).tolist() == [[[3.5, 1.0]]]
    assert not core.log_scale.requires_grad


def test_each_head_has_a_scale() -> None:
    core = ScaledAttention(0.25, heads=2, learn_scale=True)
    assert core.log_scale.requires_grad
    torch.testing.assert_close(core.scale(), torch.full((2, 1, 1), 0.25))
    with torch.no_grad():
        core.log_scale[1] += math.log(4)
    q = torch.ones(1, 1, 2, 1, 3)
    torch.testing.assert_close(core.scores(q, q, None).flatten(), torch.tensor([0.75, 3.0]))


def test_masked_softmax_by_hand() -> None:
    scores = torch.zeros(3, 3)
    allowed = torch.tensor([[True, True, False], [False, True, False], [False] * 3])
    assert masked_softmax(scores, allowed).tolist() == [[0.5, 0.5, 0], [0, 1, 0], [0, 0, 0]]


def test_the_base_has_no_weights() -> None:
    q = torch.ones(1, 1, 1, 1, 1)
    with pytest.raises(TypeError, match=r"Attention does not define weights\(\)"):
        Attention()(q, q, q, torch.ones(1, 1, 1, 1, dtype=torch.bool))
