"""The base of neurons: ``step(current, carry) -> (spikes, carry)``, run over simulation steps.

    U[t] = H[t-1] + current[t];   S[t] = fire(U[t]);   H[t] = keep(U[t], S[t])

S simulation steps lead every shape, ``[S, ...]``. The carry is what the membrane hands to the
next step; it starts at zero with every call, so nothing leaks between batches, and it is not a
buffer, so it never enters ``state_dict``.

``unit`` is the value of one spike: ``spikes / unit`` are the integers that ``spike_type`` names.

A neuron of your own derives from `Neuron` and defines ``fire`` and ``keep`` (or ``run``), with
``spike_type``, ``levels`` and ``unit`` where they differ, ``from_config``, and ``engine_spec`` if
the engine can run it. Energy, audit and reports ask for nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from spikeformers.errors import ConfigError

SpikeType = Literal["binary", "ternary", "integer"]
Kind = TypeVar("Kind", bound="Neuron")


class Activity(NamedTuple):
    """Activity of one neuron layer in one forward pass, without padding."""

    mean: Tensor
    """Mean count, differentiable."""
    density: Tensor
    """Fraction that is not zero."""
    target: float
    """The layer's ``rate_target``."""
    recorded: bool
    """Whether autograd recorded the pass, so that a loss of ``mean`` reaches the weights."""
    weight: float = 1.0
    """The layer's ``rate_weight``."""
    share: float = 0.0
    """The layer's ``read_share``."""
    learns_threshold: bool = False
    """Whether ``mean`` reaches a threshold alone."""


class BinaryUnits(NamedTuple):
    """A neuron as binary units with a reset to zero, which is what NIR can say.

    v <- decay v + current;  a unit for each of ``thresholds`` fires where v > threshold, and then
    v <- 0. With ``decay`` 0 nothing recurs. The value of the neuron is ``unit`` times their sum.
    """

    decay: float
    thresholds: tuple[float, ...]
    unit: float


class ScanRule(NamedTuple):
    """LIF as `spikeformers.kernels.triton.scan` runs it."""

    v_th: float | Tensor
    decay: float
    reset: str
    surrogate: str
    sharpness: float


class NormTerms(NamedTuple):
    """A norm over the last dimension, for a neuron that computes it itself (``fuses_norm``)."""

    kind: str
    """layer, rms or none."""
    gain: Tensor | None = None
    shift: Tensor | None = None
    eps: float = 0.0


class Neuron(nn.Module):
    """Base of all neurons; ``fire`` and ``keep`` of each subclass are its specification."""

    spike_type: SpikeType = "binary"
    levels: int = 1
    """Largest count a single step can emit."""
    activity: list[Activity] | None = None
    """When a list, every forward appends to it."""
    present: Tensor | None = None
    """``[B, T]``, 0 or false for padding, which statistics exclude; None if all tokens count.
    Set by ``mark_padding``."""
    counted_as: str = "neuron"
    """How a count of operations treats the module (`energy.counting.module_stack.kind_of`)."""
    token_axes: tuple[int, ...] = (-2,)
    """The axes of the currents that go over tokens."""
    rate_target: float = 0.0
    """The density above which a firing-rate term penalises this layer."""
    rate_weight: float = 1.0
    """The layer's weight in that term."""
    read_share: float = 0.0
    """The share of the model's weights in maps that read this layer's spikes."""
    learns_threshold: bool = False
    """Whether a firing-rate term reaches a threshold alone, and no weights."""
    own_target: float | None = None
    """The density that its place in the config asks for, if it does."""
    weighted: bool = False
    """Whether a count is a sum of binary digits, one spike (and one accumulate) per digit 1."""
    value_per_token: bool = False
    """Whether a spike's value is computed from its token, so that it cannot be part of a weight and
    no threshold is calibrated."""
    has_dead_zone: bool = False
    """Whether ``dead_zone`` (tau, a Parameter ``[1]``) silences currents that are small compared
    with their token's mean, so that it can be chosen for a share of the weights that is read."""
    dead_zone: Tensor
    planes: int = 0
    """Bits of a value on its way to the next layer; 0: as many as its largest count needs."""
    signed: bool = False
    """Whether spikes are of either sign."""
    expanded: bool = False
    """Emit binary sub-steps ``[sub_steps, S, ...]`` instead of counts (see ``expand``)."""

    @classmethod
    def from_config(cls: type[Kind], config: Any) -> Kind:
        """A neuron layer as a model's config describes it; without options unless overridden."""
        return cls()

    @classmethod
    def head_from_config(cls, config: Any) -> Neuron:
        """The neuron in front of a language model's head; the same as in the blocks."""
        return cls.from_config(config)

    def engine_spec(self) -> dict[str, Any]:
        """Fields of the engine's `NeuronSpec`; ConfigError if the engine does not know it."""
        raise ConfigError(f"the engine does not know the neuron {type(self).__name__}.")

    def binary_units(self, steps: int) -> BinaryUnits:
        """The neuron as binary units over ``steps`` steps; ConfigError says why it is none."""
        raise ConfigError(f"NIR has no node for the neuron {type(self).__name__}.")

    def scan_rule(self) -> ScanRule | None:
        """The neuron as a LIF, for a kernel in which neurons have no tensor; None if it is not."""
        return None

    def fuses_norm(self, current: Tensor) -> bool:
        """Whether ``forward`` takes the `NormTerms` of the norm before it, beside the norm's input.

        One kernel then computes both.
        """
        return False

    @property
    def exact_in_half(self) -> bool:
        """Whether bfloat16 holds each value: counts up to 256, of a unit that is a power of two."""
        return self.levels <= 256 and math.frexp(self.unit)[0] == 0.5

    def reset_parameters(self) -> None:
        """Set learned parameters back to their initial values; by default there are none."""

    @property
    def unit(self) -> float:
        """Value of one spike."""
        return 1.0

    def spike_value(self) -> float | Tensor:
        """``unit``, as a tensor without a gradient where it is learned."""
        return self.unit

    @property
    def step_levels(self) -> int:
        """D of "T x D": the largest count of one simulated step."""
        return self.levels

    @property
    def sub_steps(self) -> int:
        """Binary sub-steps of a step when expanded: ``levels``, and as many of OFF spikes."""
        return 2 * self.levels if self.signed else self.levels

    @property
    def off_steps(self) -> int:
        """How many of them, the last ones, hold OFF spikes, which are subtracted."""
        return self.levels if self.signed else 0

    def values(self) -> str:
        """The values that a step emits, in words, such as ``0, 1/4, ... 4/4``."""
        if self.spike_type == "binary":
            return "0, 1"
        if self.spike_type == "ternary":
            return "-a, 0, a"
        if self.unit == 1:
            return f"0, 1, ... {self.levels}"
        return f"0, 1/{self.levels}, ... {self.levels}/{self.levels}"

    def fire(self, u: Tensor) -> Tensor:
        """Spikes of membrane potential ``u``."""
        raise TypeError(f"{type(self).__name__} does not define fire()")

    def keep(self, u: Tensor, spikes: Tensor) -> Tensor:
        """The membrane that the next step starts from."""
        raise TypeError(f"{type(self).__name__} does not define keep()")

    def step(self, current: Tensor, carry: Tensor | None) -> tuple[Tensor, Tensor]:
        """Advance one simulation step; ``carry`` is None at the first."""
        u = current if carry is None else carry + current
        spikes = self.fire(u)
        return spikes, self.keep(u, spikes)

    def populations(self, spikes: Tensor) -> dict[str, Tensor]:
        """Counts of each kind of neurons in a layer of several, by name; empty where it has one."""
        return {}

    def report(self, current: Tensor, spikes: Tensor) -> dict[str, float]:
        """Statistics of the layer for ``current``, by name, for records of a run."""
        fired = float((spikes != 0).float().mean())
        return {"rate": float(spikes.abs().mean()) / self.unit, "density": fired}

    def operations(self, values: int, steps: int) -> dict[str, int]:
        """Elementwise operations of a forward over ``values`` currents in ``steps`` steps."""
        carried = values // steps * (steps - 1)
        thresholds = 2 if self.spike_type == "ternary" else self.levels
        return {"compare": thresholds * values, "add": 2 * carried, "mult": carried}

    def run(self, current: Tensor) -> Tensor:
        """``step`` by ``step`` over currents ``[S, ...]``; a subclass may have a faster way."""
        carry: Tensor | None = None
        steps = []
        for now in current.unbind(0):
            spikes, carry = self.step(now, carry)
            steps.append(spikes)
        return torch.stack(steps)

    def forward(self, current: Tensor) -> Tensor:
        """Map currents ``[S, ...]`` to spikes of the same shape."""
        # With one step nothing recurs, so nothing is kept.
        spikes_S = self.fire(current) if current.shape[0] == 1 else self.run(current)
        if self.activity is not None:
            self.activity.append(self._activity(current, spikes_S))
        if not self.expanded:
            return spikes_S
        return expand(spikes_S, self.levels, self.unit, self.signed)

    def total(self, values: Tensor) -> tuple[Tensor, int | Tensor]:
        """Sum of ``[S, B, ...]``, one value per unit, and how many there are, without padding."""
        exact = torch.float32 if values.is_floating_point() else torch.int64
        dtype = torch.promote_types(values.dtype, exact)
        if self.present is None:
            return values.sum(dtype=dtype), values.numel()
        # Padding is excluded from the sums per token, which needs no second tensor of this size.
        axes = (1, *(axis % values.dim() for axis in self.token_axes))
        others = [axis for axis in range(values.dim()) if axis not in axes]
        keep = self.present.bool()
        if len(self.token_axes) == 2:
            keep = keep.unsqueeze(-1) & keep.unsqueeze(-2)
        size = keep.sum() * (values.numel() // keep.numel())
        return (values.sum(others, dtype=dtype) * keep).sum(), size.clamp_min(1)

    def _activity(self, current: Tensor, spikes: Tensor) -> Activity:
        # Signs add up several times faster than count_nonzero() counts, and the gradient of a sum,
        # unlike a mean's, is one number.
        count, sign = spikes, spikes.detach().sign()
        if self.signed:
            count, sign = spikes.abs(), sign.abs_()
        (counted, size), (fired, _) = self.total(count), self.total(sign)
        return self._reported(counted / (size * self.unit), fired / size)

    def _reported(self, mean: Tensor, density: Tensor) -> Activity:
        return Activity(
            mean,
            density,
            self.rate_target,
            torch.is_grad_enabled(),
            self.rate_weight,
            self.read_share,
            self.learns_threshold,
        )


def below(threshold: float) -> float:
    """The largest float32 under ``threshold``: greater than it means at least ``threshold``."""
    limit = torch.tensor(-torch.inf)
    return float(torch.nextafter(torch.tensor(threshold, dtype=torch.float32), limit))


def neurons_of(model: nn.Module) -> dict[str, Neuron]:
    """The neuron layers in ``model`` by name, in the order of its modules."""
    return {name: part for name, part in model.named_modules() if isinstance(part, Neuron)}


def mark_padding(module: nn.Module, present: Tensor | None) -> None:
    """Make the neurons in ``module`` exclude padding from their statistics, see ``present``."""
    for neuron in neurons_of(module).values():
        neuron.present = present


def expand(spikes: Tensor, levels: int, unit: float = 1.0, signed: bool = False) -> Tensor:
    """Unroll counts ``[S, ...]`` into binary sub-steps ``[levels, S, ...]`` that sum to them.

    With a sign there are two populations, ``[2 * levels, S, ...]``: the sub-steps of ON neurons,
    which fire for counts above zero, and then those of OFF neurons, which fire for counts below it
    and are subtracted (see ``collapse``).
    """
    count = torch.round(spikes / unit).unsqueeze(0)
    thresholds = torch.arange(levels, device=spikes.device, dtype=spikes.dtype)
    thresholds = thresholds.view(-1, *([1] * spikes.dim()))
    populations = (count > thresholds, -count > thresholds) if signed else (count > thresholds,)
    return torch.cat(populations).to(spikes.dtype)


def collapse(sub_steps: Tensor, off_steps: int = 0) -> Tensor:
    """The counts ``[S, ...]`` of sub-steps ``[D, S, ...]``, the last ``off_steps`` subtracted.

    Also of what is linear in the sub-steps, such as the output of a linear map.
    """
    on_steps = sub_steps.shape[0] - off_steps
    counts = sub_steps[:on_steps].sum(0)
    return counts - sub_steps[on_steps:].sum(0) if off_steps else counts


@contextmanager
def observe(model: nn.Module, fn: Callable[[str, Neuron, Tensor], None]) -> Iterator[None]:
    """Call ``fn(name, neuron, spikes)`` at every neuron's forward inside the ``with`` block."""

    def hook(name: str, neuron: Neuron) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda _module, _inputs, spikes: fn(name, neuron, spikes)

    handles = [
        neuron.register_forward_hook(hook(name, neuron))
        for name, neuron in neurons_of(model).items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
