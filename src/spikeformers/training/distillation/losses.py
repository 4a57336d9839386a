"""Spike-Aware Alignment Distillation (SpAD): five losses, as pure functions.

    L   = w_EA EA + w_SAA SAA + w_SFA SFA + w_STA STA + w_HTA HTA

    EA  = MSE(mean_t E_S(t), E_T)                                   embedding
    SAA = MSE(mean_t A_S(t), A_T) + r MSE(mean_t A_S(t), R(A_T))    spiking attention
    SFA = MSE(F, H_T) + r MSE(R(F), R(H_T))                         spiking feature
          F = LayerNorm(MLP(mean_t H_S(t)))
    STA = tau^2 KL(softmax(z_T / tau) || softmax(z_S / tau))        soft target
    HTA = -log softmax(z_S)[next token]                             hard target

    R(x) = mean_t LIF(x), the same current x at every step

S student, T teacher, t simulation steps. The average of a map of spikes over t is its own firing
rate, so the rate part of SAA compares it directly with the teacher's rate; F is real and goes
through the same LIF as H_T. Every mean is over all entries (batch, tokens, heads, width), and then
over the layers. Losses are computed in float32.

BiSpikCLM, https://arxiv.org/abs/2605.13859. Unspecified there, and chosen in ``SpADConfig``: r,
the LIF, the MLP, whether H_T is normalised, which layers are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from spikeformers.data.masking import IGNORED
from spikeformers.neurons import Neuron

Rate = Callable[[Tensor], Tensor]


def firing_rate(current: Tensor, neuron: Neuron, steps: int) -> Tensor:
    """R: mean spikes, in ``current``'s shape, of ``neuron`` driven by it for ``steps`` steps."""
    spikes_S: Tensor = neuron(current.float().expand(steps, *current.shape))
    return spikes_S.mean(0)


def embedding_alignment(student: Tensor, teacher: Tensor) -> Tensor:
    """EA of two embeddings ``[B, T, D]``."""
    return _mse(student, teacher)


def attention_alignment(
    student: Sequence[Tensor], teacher: Sequence[Tensor], rate: Rate, rate_weight: float
) -> Tensor:
    """SAA of one map ``[B, H, T, J]`` per layer; the student's are averaged over t."""
    return _over_layers(student, teacher, lambda s: s, rate, rate_weight)


def feature_alignment(
    student: Sequence[Tensor], teacher: Sequence[Tensor], rate: Rate, rate_weight: float
) -> Tensor:
    """SFA of one ``[B, T, D]`` per layer; the student's are F."""
    return _over_layers(student, teacher, rate, rate, rate_weight)


def soft_targets(student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    """STA of logits ``[B, T, V]``, in nats per token."""
    log_s, log_t = (
        torch.log_softmax(z.float() / tau, -1).flatten(0, -2) for z in (student, teacher)
    )
    return tau**2 * F.kl_div(log_s, log_t, reduction="batchmean", log_target=True)


def hard_targets(logits: Tensor, labels: Tensor) -> Tensor:
    """HTA of logits ``[B, T, V]`` and labels ``[B, T]``, shifted here; in nats per target."""
    shifted = F.pad(labels[:, 1:], (0, 1), value=IGNORED)
    return F.cross_entropy(logits.float().flatten(0, 1), shifted.flatten(), ignore_index=IGNORED)


def _over_layers(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    student_rate: Rate,
    teacher_rate: Rate,
    rate_weight: float,
) -> Tensor:
    layers = []
    for s, t in zip(student, teacher, strict=True):
        loss = _mse(s, t)
        if rate_weight:
            loss = loss + rate_weight * _mse(student_rate(s), teacher_rate(t))
        layers.append(loss)
    return torch.stack(layers).mean()


def _mse(student: Tensor, teacher: Tensor) -> Tensor:
    return F.mse_loss(student.float(), teacher.float())
