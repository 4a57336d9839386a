"""Parts that `gap.py` tries and the library does not have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from spikeformers.attention import WTA, SoftmaxAttention
from spikeformers.attention._pairs import written_out
from spikeformers.layers import merge_heads, split_heads
from spikeformers.models._block import make_fire
from spikeformers.models._converted import rotate
from spikeformers.models._places import neuron_at
from spikeformers.neurons import Activity, DeadZone

OnStep = Callable[[int, Mapping[str, float]], None]


class ByChannel(DeadZone):
    """A dead zone with a threshold for each channel; its gain stays one number."""

    def per_channel(self, width: int) -> None:
        """Give each of ``width`` channels the threshold that the layer has."""
        self.threshold = nn.Parameter(self.threshold.detach().repeat(width))

    def fire(self, u: Tensor) -> Tensor:
        limit = self.threshold + (self.threshold.clamp_min(0) - self.threshold).detach()
        scaled = u if self.gain is None else u * self._size_of_gain(self.gain)
        size = (scaled.abs() if self.signed else scaled) - limit
        top = self.step_size * self.levels
        z = size.clamp(0, top)
        z = z + ((z.detach() / self.step_size).round() * self.step_size - z.detach())
        z = z * scaled.detach().sign() if self.signed else z
        return z if self.gain is None else z / self._size_of_gain(self.gain)

    def _activity(self, current: Tensor, spikes: Tensor) -> Activity:
        size = spikes.detach().abs()
        excess, fired = size.mean(), size.sign()
        if self.gain is not None:
            excess = excess * self._size_of_gain(self.gain.detach()).squeeze()
        by_channel = fired.mean(dim=tuple(range(fired.dim() - 1)))
        held = by_channel * (self.threshold - self.threshold.detach())
        return self._reported(excess - held.mean(), fired.mean())


def thresholds_by_channel(model: Any) -> None:
    """Every dead zone of ``model`` gets a threshold for each of its channels."""
    for name, module in model.named_modules():
        if isinstance(module, DeadZone):
            wide = "hidden" in name
            module.__class__ = ByChannel
            module.per_channel(model.config.intermediate_size if wide else model.config.hidden_size)


class Reshaped(DeadZone):
    """A dead zone whose signed values beyond the threshold are not shrunk by it.

    ``shape`` gives the size of what passes from the current's size and the threshold.
    """

    shape: Callable[[Tensor, Tensor], Tensor]

    def fire(self, u: Tensor) -> Tensor:
        if not self.signed:
            return super().fire(u)
        limit = self.threshold + (self.threshold.clamp_min(0) - self.threshold).detach()
        gain = None if self.gain is None else self._size_of_gain(self.gain)
        scaled = u if gain is None else u * gain
        z = type(self).shape(scaled.abs(), limit).clamp(max=self.step_size * self.levels)
        z = z + ((z.detach() / self.step_size).round() * self.step_size - z.detach())
        z = z * scaled.detach().sign()
        return z if gain is None else z / gain


class Hard(Reshaped):
    """Currents pass as they are beyond the threshold; its gradient is JumpReLU's.

    Rajamanoharan et al. 2024, https://arxiv.org/abs/2407.14435.
    """

    WIDTH = 0.25  # of the kernel by which the jump is seen

    @staticmethod
    def shape(size: Tensor, limit: Tensor) -> Tensor:
        passed = torch.where(size > limit, size, 0.0)
        near = ((size - limit).abs() < Hard.WIDTH / 2).to(size.dtype).detach() / Hard.WIDTH
        return passed - limit.detach() * near * (limit - limit.detach())


class Bent(Reshaped):
    """u - theta^2 / u beyond the threshold: continuous, and nearly u where u is large.

    The non-negative garrote (Gao 1998, https://doi.org/10.1080/10618600.1998.10474789).
    """

    @staticmethod
    def shape(size: Tensor, limit: Tensor) -> Tensor:
        return (size - limit.square() / size.clamp_min(1e-6)).clamp_min(0.0)


def hard_thresholds(model: Any) -> None:
    """Signed dead zones of ``model`` do not shrink what passes."""
    _reshape(model, Hard)


def bent_thresholds(model: Any) -> None:
    """Signed dead zones of ``model`` shrink large values less."""
    _reshape(model, Bent)


def _reshape(model: Any, kind: type[Reshaped]) -> None:
    for module in model.modules():
        if isinstance(module, DeadZone):
            module.__class__ = kind


class ByMargin(DeadZone):
    """A dead zone whose firing-rate term pushes by what a higher threshold would silence.

    The term's gradient is -P(|N| = 1) / step, the spikes that a threshold higher by a step would
    silence, in place of -density, which overrates it where counts are large.
    """

    def _activity(self, current: Tensor, spikes: Tensor) -> Activity:
        counts = (spikes.detach().abs() / self.spike_value()).round_()
        (fired, values), (least, _) = self.total(counts.sign()), self.total(counts == 1)
        density, margin = fired / values, least / values / self.step_size
        threshold = self.threshold.squeeze()
        return self._reported(density - margin * (threshold - threshold.detach()), density)


def budget_by_margin(model: Any) -> None:
    """Every dead zone of ``model`` is held by what its threshold would silence."""
    for module in model.modules():
        if isinstance(module, DeadZone):
            module.__class__ = ByMargin


class Reviving(DeadZone):
    """A dead zone whose channels that are silent on a whole batch have a gradient, 1 throughout."""

    def fire(self, u: Tensor) -> Tensor:
        spikes = super().fire(u)
        silent = (spikes == 0).flatten(0, -2).all(0)
        return torch.where(silent, u - u.detach(), spikes)


def silent_channels_learn(model: Any) -> None:
    """A channel of ``model`` that is silent on a whole batch still has a gradient."""
    for module in model.modules():
        if isinstance(module, DeadZone):
            module.__class__ = Reviving


def one_winner(model: Any) -> None:
    """Every head of a dense twin reads the one key of the highest score; softmax backwards."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register("one-winner", _winners)
    AttentionMaskInterface.register("one-winner", eager_mask)
    model.set_attn_implementation("one-winner")


def _winners(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    scores = query @ key.mT * scaling
    if attention_mask is not None:
        scores = scores + attention_mask[..., : key.shape[-2]]
    p = scores.softmax(-1)
    hard = torch.zeros_like(p).scatter_(-1, p.argmax(-1, keepdim=True), 1.0)
    weights = hard - p.detach() + p
    return (weights @ value).transpose(1, 2).contiguous(), weights


class Resting(WTA):
    """One winner among the keys and a rest, which a head prefers where no score is above its own.

    A resting head reads no row and adds nothing. The score of rest is learned, one per head.
    """

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, allowed: Any, bias: Tensor | None = None
    ) -> Tensor:
        allowed, bias = written_out(allowed, bias, q, k)
        queries, keys = q.shape[-2], k.shape[-2]
        if bias is None:
            bias = self.rest.new_zeros(self.rest.shape[0], queries, keys)
        k, v = (torch.cat([x.new_zeros(*x.shape[:-2], 1, x.shape[-1]), x], -2) for x in (k, v))
        allowed = torch.cat([allowed.new_ones(*allowed.shape[:-1], 1), allowed], -1)
        return super().forward(
            q, k, v, allowed, torch.cat([self.rest.expand(-1, queries, 1), bias], -1)
        )


def rests(model: Any) -> None:
    """Every head of ``model`` may rest; at first it does where the best score is below -1."""
    for module in model.modules():
        if isinstance(module, WTA):
            module.__class__ = Resting
            module.rest = nn.Parameter(torch.full((model.config.num_attention_heads, 1, 1), -1.0))


class Traced(WTA):
    """Winners for the first heads; the others fire from a leaky trace of their values.

        y[t] = leak y[t-1] + (1 - leak) v[t],  then  SN(Norm(y))          leak learned per channel

    They have no queries and no keys: a neuron that leaks over tokens remembers what was read.
    """

    def trace(self, config: Any, heads: int) -> None:
        """Give the last ``heads`` heads a trace, of half lives of 2 to 128 tokens at first."""
        width = heads * config.head_width
        self.traced = heads
        self.log_scale = nn.Parameter(
            self.log_scale.detach()[:-heads].clone(), self.log_scale.requires_grad
        )
        self.fires = make_fire(config, width, True, neuron_at(config, "value"))
        half_life = 2.0 ** torch.linspace(1, 7, width)
        self.leak = nn.Parameter(torch.logit(0.5 ** (1 / half_life)))

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, allowed: Any, bias: Tensor | None = None
    ) -> Tensor:
        chosen = q.shape[-3] - self.traced
        allowed, bias = written_out(allowed, bias, q, k)
        won = super().forward(
            *(x[..., :chosen, :, :] for x in (q, k, v)),
            allowed,
            None if bias is None else bias[..., :chosen, :, :],
        )
        values = merge_heads(v[..., chosen:, :, :])
        tokens = values.shape[-2]
        age = torch.arange(tokens, device=v.device)
        age = age[:, None] - age
        leak = self.leak.sigmoid()[:, None, None]
        kernel = torch.where(age >= 0, (1 - leak) * leak ** age.clamp_min(0), 0.0)
        by_channel = values.flatten(0, -3).permute(2, 1, 0)
        traces = (kernel @ by_channel).permute(2, 1, 0).view_as(values)
        return torch.cat([won, split_heads(self.fires(traces), v.shape[-1])], -3)


def traces(model: Any, share: float = 0.5) -> None:
    """Give a share of each layer's heads a leaky trace in place of a competition."""
    for module in model.modules():
        if isinstance(module, WTA):
            module.__class__ = Traced
            module.trace(model.config, round(model.config.num_attention_heads * share))


class Mixed(SoftmaxAttention):
    """One winner for every second head, softmax for the others."""

    def weights(self, q: Tensor, k: Tensor, allowed: Tensor, bias: Tensor | None) -> Tensor:
        p = super().weights(q, k, allowed, bias)
        hard = torch.zeros_like(p).scatter_(-1, p.argmax(-1, keepdim=True), 1.0)
        competes = torch.arange(p.shape[-3], device=p.device)[:, None, None] % 2 == 0
        return torch.where(competes, hard - p.detach() + p, p)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, allowed: Any, bias: Tensor | None = None
    ) -> Tensor:
        allowed, bias = written_out(allowed, bias, q, k)
        return self.weights(q, k, allowed, bias) @ v


def mixed(model: Any) -> None:
    """Every second head of ``model``, which has softmax, has one winner."""
    for module in model.modules():
        if isinstance(module, SoftmaxAttention):
            module.__class__ = Mixed


class Rotary(nn.Module):
    """Currents ``[..., T, D]`` turned by their position within each head, as the twin's q and k."""

    def __init__(self, head_width: int) -> None:
        super().__init__()
        self.head_width = head_width

    def forward(self, x: Tensor) -> Tensor:
        half = self.head_width // 2
        frequency = 10_000.0 ** -(torch.arange(half, device=x.device) / half)
        angle = torch.arange(x.shape[-2], device=x.device)[:, None] * frequency.repeat(2)
        heads = x.flatten(0, -3).unflatten(-1, (-1, self.head_width)).transpose(1, 2)
        turned = rotate(heads, angle.cos()[None], angle.sin()[None])
        return turned.transpose(1, 2).reshape(x.shape)


def turned_by_position(model: Any) -> None:
    """The currents of q and k are turned by their position; the relative bias stays."""
    for layer in model.base_model.layers:
        block = layer.attention
        for fire in (block.fire_query, block.fire_key):
            fire.norm = Rotary(block.head_width)


def handed_on(model: Any) -> None:
    """The sum of the winners' rows goes to W_o as it is: sums of counts are counts."""
    for layer in model.base_model.layers:
        layer.attention.fire_out = None


def more_winners(model: Any, steps: int, winners: int = 4, begin: float = 0.5) -> OnStep:
    """One winner up to a share of the run, then several, and their mean.

    The first step after an interruption has one again.
    """
    heads = [module for module in model.modules() if isinstance(module, WTA)]

    def let(number: int) -> None:
        for head in heads:
            head.winners, head.weight = number, 1 / number

    def after(step: int, metrics: Mapping[str, float]) -> None:
        if step >= begin * steps and heads[0].winners == 1:
            let(winners)

    let(1)
    return after


class Gate(torch.autograd.Function):
    """1 where a current is above 0; backward as the sigmoid of four times it."""

    @staticmethod
    def forward(ctx: Any, current: Tensor) -> Tensor:
        ctx.save_for_backward(current)
        return (current > 0).to(current.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (current,) = ctx.saved_tensors
        open_share = torch.sigmoid(4 * current)
        return grads[0] * 4 * open_share * (1 - open_share)


def gate_hidden(model: Any) -> None:
    """Let a binary spike of a map of its own pass or stop each hidden current of the MLP."""
    first = model.model.layers[0].mlp
    kind, mlp = type(first.up), type(first)

    class Gated(mlp):  # type: ignore[misc, valid-type]
        """An MLP whose hidden neurons see what the gate lets through."""

        def maps(self) -> list[tuple[nn.Module, Any]]:
            return [*super().maps(), (self.gate, self.fire_in.neuron)]

        def forward(self, x: Tensor, cache: Any = None, present: Any = None) -> Tensor:
            spikes = self.fire_in(x)
            current = self.up(spikes) * Gate.apply(self.gate(spikes))
            y: Tensor = self.out_norm(self.down(self.fire_hidden(current)))
            return y

    for layer in model.model.layers:
        block = layer.mlp
        block.__class__ = Gated
        block.gate = kind(block.up.in_features, block.up.out_features, block.up.bias is not None)
        model._init_weights(block.gate)


@torch.no_grad()
def neighbours_first(model: Any) -> None:
    """Heads prefer, in turns, the key behind the query and the one before it, not the query's own.

    That one is a mask token's wherever a masked model is asked.
    """
    for relative in model.base_model.relative:
        heads, entries = relative.bias.shape
        slopes = 2.0 ** (-8.0 * torch.arange(1, heads + 1) / heads) * relative.slope
        distance = torch.arange(entries) - (relative.max_distance - 1)
        beside = 1 - 2 * (torch.arange(heads) % 2)
        relative.bias.copy_(-slopes[:, None] * (distance - beside[:, None]).abs())


def falling_budget(model: Any, steps: int, begin: float = 0.0, until: float = 0.5) -> OnStep:
    """The budget falls from all to the config's own between two shares of the run, in a line.

    The first step after an interruption sees all of it again.
    """
    start, end = 0.999, model.config.budget  # a config's is less than 1
    model.config.budget = start

    def after(step: int, metrics: Mapping[str, float]) -> None:
        done = (step / steps - begin) / (until - begin)
        model.config.budget = start + (end - start) * min(1.0, max(0.0, done))

    return after
