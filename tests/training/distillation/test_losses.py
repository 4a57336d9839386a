"""Each loss against a value worked out by hand, and a perfect student without loss."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from spikeformers.neurons import LIF
from spikeformers.training.distillation import losses

RATE = partial(losses.firing_rate, neuron=LIF(0.5, 1.0, "delayed"), steps=4)


def silent(current: Tensor) -> Tensor:
    return torch.zeros_like(current)


def test_rate_of_a_constant_current() -> None:
    # decay 0.5, threshold 1, current 0.8: U = 0.8, 1.2 (spike, then H = 0.6 - 1 = -0.4),
    # 0.4, 1.0 (spike) -> 2 of 4; 0.4 rises to 0.75 at most; 1 spikes, then U = 0.5, 1.25, 0.625
    rate = RATE(torch.tensor([0.8, 0.4, 1.0, -3.0, 0.0]))
    torch.testing.assert_close(rate, torch.tensor([0.5, 0.0, 0.5, 0.0, 0.0]))


def test_rate_has_the_gradient_of_its_surrogate() -> None:
    current = torch.tensor([0.8, 0.4], requires_grad=True)
    RATE(current).sum().backward()
    assert current.grad is not None
    assert (current.grad > 0).all()


def test_embedding_alignment() -> None:
    student, teacher = torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[0.0, 4.0]]])
    assert losses.embedding_alignment(student, teacher).item() == (1 + 4) / 2


def test_attention_alignment() -> None:
    student = torch.tensor([[[[1.0, 0.0], [0.5, 0.5]]]])
    teacher = torch.tensor([[[[1.0, 0.0], [0.2, 0.8]]]])
    # maps: (0 + 0 + 0.09 + 0.09) / 4; the teacher's rates are 0.5, 0, 0 (0.2 reaches 0.375), 0.5
    direct, rates = 0.18 / 4, (0.25 + 0 + 0.25 + 0) / 4
    for weight in (0.0, 1.0, 2.0):
        loss = losses.attention_alignment([student], [teacher], RATE, weight)
        assert loss.item() == pytest.approx(direct + weight * rates)


def test_feature_alignment_drives_both_sides_through_the_neuron() -> None:
    student, teacher = torch.tensor([[[0.8, 0.0]]]), torch.tensor([[[0.4, 0.0]]])
    # (0.16 + 0) / 2, and the rates 0.5, 0 against 0, 0
    loss = losses.feature_alignment([student], [teacher], RATE, 0.5)
    assert loss.item() == pytest.approx(0.08 + 0.5 * 0.125)


def test_layers_count_by_their_mean() -> None:
    zeros, ones, threes = (torch.full((1, 2, 2), value) for value in (0.0, 1.0, 3.0))
    loss = losses.feature_alignment([zeros, zeros], [ones, threes], silent, 1.0)
    assert loss.item() == (1 + 9) / 2
    with pytest.raises(ValueError, match="zip"):
        losses.feature_alignment([zeros], [ones, threes], silent, 1.0)


def test_soft_targets() -> None:
    # tau = 2: the logits (2 ln 3, 0) give 3/4, 1/4; (0, 0) gives 1/2, 1/2
    teacher, student = torch.tensor([[[2 * math.log(3), 0.0]]]), torch.zeros(1, 1, 2)
    kl = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert losses.soft_targets(student, teacher, 2.0).item() == pytest.approx(4 * kl)
    other = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)  # it is not symmetric
    assert losses.soft_targets(teacher, student, 2.0).item() == pytest.approx(4 * other)
    twice = losses.soft_targets(student.expand(2, 3, 2), teacher.expand(2, 3, 2), 2.0)
    assert twice.item() == pytest.approx(4 * kl)  # a mean over tokens


def test_hard_targets_are_the_next_tokens() -> None:
    logits = torch.tensor([[[math.log(3), 0.0], [0.0, 0.0], [9.0, -9.0]]])
    labels = torch.tensor([[1, 0, 1]])
    # p(0 | first) = 3/4, p(1 | second) = 1/2; the last row has no target
    expected = -(math.log(0.75) + math.log(0.5)) / 2
    assert losses.hard_targets(logits, labels).item() == pytest.approx(expected)


def test_hard_targets_are_the_loss_of_transformers_bit_for_bit() -> None:
    from transformers.loss.loss_utils import ForCausalLMLoss

    torch.manual_seed(0)
    logits, labels = torch.randn(3, 7, 11), torch.randint(11, (3, 7))
    assert torch.equal(losses.hard_targets(logits, labels), ForCausalLMLoss(logits, labels, 11))


def test_a_perfect_student_has_no_loss() -> None:
    torch.manual_seed(1)
    hidden, logits = torch.randn(2, 3, 4), torch.randn(2, 3, 5)
    winners = F.one_hot(torch.randint(3, (2, 2, 3)), 3).float()  # fires at each step, or never
    always = partial(losses.firing_rate, neuron=LIF(0.5, 1.0), steps=4)
    assert losses.embedding_alignment(hidden, hidden).item() == 0
    assert losses.attention_alignment([winners], [winners], always, 1.0).item() == 0
    assert losses.feature_alignment([hidden], [hidden], RATE, 1.0).item() == 0
    assert losses.soft_targets(logits, logits, 2.0).item() == pytest.approx(0, abs=1e-6)
    certain = F.one_hot(torch.tensor([[1, 2, 0]]), 5).float() * 100
    assert losses.hard_targets(certain, torch.tensor([[4, 1, 2]])).item() == 0


def test_half_precision_is_compared_in_float32() -> None:
    student, teacher = torch.full((1, 1, 2), 300.0), torch.zeros(1, 1, 2)
    loss = losses.embedding_alignment(student.half(), teacher.half())
    assert (loss.dtype, loss.item()) == (torch.float32, 90_000)  # beyond float16
