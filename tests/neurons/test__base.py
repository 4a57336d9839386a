"""What all neurons share: steps that lead, no state between calls, observation, expansion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from spikeformers.neurons import (
    IF,
    ILIF,
    LIF,
    NILIF,
    TLIF,
    Neuron,
    PhaseIF,
    SignedIF,
    expand,
    mark_padding,
    observe,
)

KINDS: dict[str, Callable[[], Neuron]] = {
    "ni-lif": lambda: NILIF(4, 0.5),
    "ni-lif-sigmoid": lambda: NILIF(4, 0.5, "sigmoid"),
    "i-lif": lambda: ILIF(3, 0.5),
    "lif": lambda: LIF(0.5, 1.0),
    "lif-hard": lambda: LIF(0.5, 1.0, "hard"),
    "lif-delayed": lambda: LIF(0.5, 1.0, "delayed"),
    "t-lif": lambda: TLIF(0.5, 0.5, "soft", "learnable", 0.8),
    "t-lif-hard": lambda: TLIF(0.5, 0.5, "hard", "first-batch"),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def currents(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3)) * 1.5


@every_kind
def test_steps_lead_and_everything_else_is_independent(kind: str) -> None:
    neuron = KINDS[kind]().eval()
    current = currents(4, 2, 3, 5)
    spikes = neuron(current)
    assert spikes.shape == current.shape
    for i, j, k in [(0, 0, 0), (1, 2, 4), (0, 1, 3)]:  # each unit alone gives the same train
        single = slice(k, k + 1)
        assert torch.equal(neuron(current[:, i, j, single]), spikes[:, i, j, single])
    for steps in (1, 2, 3):  # later currents never change earlier spikes
        assert torch.equal(neuron(current[:steps]), spikes[:steps])
    later = neuron(current[1:])
    assert not torch.equal(later, spikes[1:])  # the carry of the first step matters


@every_kind
def test_forward_is_step_in_a_loop(kind: str) -> None:
    neuron = KINDS[kind]().eval()
    current = currents(5, 20)
    carry, spikes = None, []
    for now in current:
        s, carry = neuron.step(now, carry)
        spikes.append(s)
    assert torch.equal(neuron(current), torch.stack(spikes))


@every_kind
def test_no_state_is_saved_and_none_leaks_between_calls(kind: str) -> None:
    neuron = KINDS[kind]().eval()
    names = {"amplitude", "calibrated"} if kind.startswith("t-lif") else set()
    current = currents(3, 4, 6)
    before = {k: v.clone() for k, v in neuron.state_dict().items()}
    first = neuron(current)
    neuron(10 * current)
    assert torch.equal(neuron(current), first)
    assert torch.equal(neuron(current[:, :1]), first[:, :1])  # another batch size at once
    assert set(neuron.state_dict()) == names
    assert all(torch.equal(before[k], v) for k, v in neuron.state_dict().items())


@every_kind
def test_spikes_are_counts_of_the_unit(kind: str) -> None:
    neuron = KINDS[kind]()
    counts = neuron(currents(4, 500)) / neuron.unit
    assert (counts - counts.round()).abs().max() < 1e-6
    emitted = {int(c) for c in counts.round().unique()}
    expected = {
        "binary": {0, 1},
        "ternary": {-1, 0, 1},
        "integer": set(range(neuron.levels + 1)),
    }[neuron.spike_type]
    assert emitted == expected


@given(
    levels=st.integers(1, 9),
    counts=st.lists(st.integers(0, 9), min_size=1, max_size=12),
    normalised=st.booleans(),
)
def test_expansion_sums_back(levels: int, counts: list[int], normalised: bool) -> None:
    unit = 1.0 / levels if normalised else 1.0
    spikes = torch.tensor(counts).clamp_max(levels).float().unsqueeze(0) * unit
    sub = expand(spikes, levels, unit)
    assert sub.shape == (levels, *spikes.shape)
    assert set(sub.unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(sub.sum(0), torch.tensor(counts).clamp_max(levels).float().unsqueeze(0))
    assert torch.equal(sub, sub.sort(0, descending=True).values)  # a thermometer code


@pytest.mark.parametrize("kind", ["ni-lif", "i-lif", "lif"])
def test_expanded_neuron_emits_binary_sub_steps(kind: str) -> None:
    neuron = KINDS[kind]()
    current = currents(3, 2, 50)
    spikes = neuron(current)
    neuron.expanded = True
    sub = neuron(current)
    assert sub.shape == (neuron.levels, 3, 2, 50)
    assert set(sub.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(sub.sum(0) * neuron.unit, spikes, rtol=0, atol=1e-7)


@every_kind
def test_activity_appends_mean_count_and_density(kind: str) -> None:
    neuron = KINDS[kind]()
    current = currents(2, 30).requires_grad_()
    assert neuron.activity is None
    spikes = neuron(current)  # nothing is kept unless asked for
    neuron.activity = kept = []
    neuron.rate_target = 0.3
    neuron(current)
    neuron(torch.zeros(2, 30))
    (count, density, target, recorded, *_), (silent_count, silent_density, *_) = kept
    assert (target, recorded) == (0.3, True)
    assert count.item() == pytest.approx(spikes.abs().mean().item() / neuron.unit, rel=1e-5)
    assert density.item() == pytest.approx((spikes != 0).float().mean().item())
    assert 0 < density.item() < 1
    assert (silent_count.item(), silent_density.item()) == (0, 0)
    count.backward()
    assert current.grad.abs().sum() > 0
    assert not density.requires_grad


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_activity_is_exact_for_a_large_layer(dtype: torch.dtype) -> None:
    """1 in 64 units fires twice of at most 4: no dtype of spikes may lose some of them."""
    neuron = NILIF(4)
    neuron.activity = kept = []
    current = torch.zeros(1, 2**20, dtype=dtype)
    current[0, ::64] = 2
    current.requires_grad_()
    neuron(current)
    ((count, density, *_),) = kept
    assert (count.item(), density.item()) == (2 / 64, 1 / 64)
    count.backward()
    assert torch.equal(current.grad, torch.full_like(current, 2.0**-20))


def test_observe_calls_with_names_and_spikes_and_stops_after() -> None:
    model = nn.Sequential(nn.Linear(3, 3), LIF(), nn.Sequential(NILIF(2)))
    seen: list[tuple[str, Neuron, Tensor]] = []
    x = currents(2, 4, 3)
    with observe(model, lambda *event: seen.append(event)):
        y = model(x)
    assert [name for name, _, _ in seen] == ["1", "2.0"]
    assert seen[0][1] is model[1]
    assert torch.equal(seen[0][2], model[1](model[0](x)))
    assert torch.equal(seen[1][2], y)
    model(x)
    assert len(seen) == 2


def test_observe_lets_go_after_an_error() -> None:
    model = nn.Sequential(LIF())
    calls: list[str] = []
    with (
        pytest.raises(RuntimeError, match="expand"),
        observe(model, lambda name, neuron, spikes: calls.append(name)),
    ):
        model(torch.ones(2, 3)).expand(5)
    model(torch.ones(2, 3))
    assert calls == ["0"]


def test_the_base_has_no_dynamics() -> None:
    with pytest.raises(TypeError, match=r"Neuron does not define fire\(\)"):
        Neuron()(torch.ones(1, 2))

    class Half(Neuron):
        def fire(self, u: Tensor) -> Tensor:
            return (u >= 1).float()

    assert Half()(torch.tensor([[0.5, 1.0]])).tolist() == [[0, 1]]  # one step keeps nothing
    with pytest.raises(TypeError, match=r"Half does not define keep\(\)"):
        Half()(torch.ones(2, 2))


@pytest.mark.parametrize(
    ("neuron", "values", "step_levels"),
    [
        (LIF(), "0, 1", 1),
        (TLIF(), "-a, 0, a", 1),
        (NILIF(4), "0, 1/4, ... 4/4", 4),
        (ILIF(3), "0, 1, ... 3", 3),
        (IF((1,), 4), "0, ... 4, the sum of 4 steps", 1),
        (SignedIF((1,), 4), "-4, ... 4, the sum of 4 steps", 1),
        (SignedIF((1,), 4, unrolled=True), "-1, 0, 1", 1),
        (PhaseIF((1,), 3), "-7, ... 7, the sum of 3 steps", 1),
        (IF((1,), 4, unrolled=True), "0, 1", 1),
    ],
)
def test_what_a_step_emits_in_words(neuron: Neuron, values: str, step_levels: int) -> None:
    assert (neuron.values(), neuron.step_levels) == (values, step_levels)


# --- padding --------------------------------------------------------------------------------------

PRESENT = torch.tensor([[1, 1, 0], [0, 1, 1]])  # [B, T]: one padded on the right, one on the left


def test_totals_of_tokens_and_of_pairs_of_tokens_by_hand() -> None:
    """[S=1, B=2, T=3, D=2], then [S=1, B=2, H=1, T=3, J=3], each value its own power of two."""
    neuron = LIF()
    values = 2.0 ** torch.arange(12).view(1, 2, 3, 2)
    assert neuron.total(values) == (2**12 - 1, 12)
    neuron.present = PRESENT
    total, size = neuron.total(values)
    assert (total.item(), int(size)) == (0b11110000_1111, 8)
    fired, size = neuron.total(values > 2)  # the first two are not
    assert (fired.item(), int(size), fired.dtype) == (6, 8, torch.int64)
    neuron.token_axes = (-2, -1)
    pairs = 2.0 ** torch.arange(18).view(1, 2, 1, 3, 3)
    total, size = neuron.total(pairs)
    assert (total.item(), int(size)) == ((0b110110000 << 9) + 0b000011011, 8)
    neuron.present = torch.zeros(2, 3)
    assert [float(figure) for figure in neuron.total(pairs)] == [
        0,
        1,
    ]  # and nothing is divided by 0


@every_kind
def test_activity_is_that_of_the_tokens_alone(kind: str) -> None:
    neuron = KINDS[kind]()
    neuron.activity = kept = []
    padded, alone = currents(2, 2, 3, 40).requires_grad_(), currents(2, 2, 3, 40)
    alone = alone[:, PRESENT.bool()].requires_grad_()
    neuron(alone)
    mark_padding(neuron, PRESENT)
    neuron(padded)
    (mean, density, *_), (padded_mean, padded_density, *_) = kept
    assert padded_mean.item() == pytest.approx(mean.item(), rel=1e-6)
    assert padded_density.item() == pytest.approx(density.item(), rel=1e-6)
    (mean + padded_mean).backward()
    assert torch.equal(padded.grad[:, ~PRESENT.bool()], torch.zeros(2, 2, 40))
    torch.testing.assert_close(padded.grad[:, PRESENT.bool()], alone.grad)


class Largest(TorchDispatchMode):
    """The most elements that an operation made anew."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.elements = max(self.elements, out.untyped_storage().nbytes() // out.itemsize)
        return out


def test_leaving_padding_out_makes_no_second_tensor_of_the_size() -> None:
    neuron, values = LIF(), currents(2, 2, 3, 40)
    neuron.present = PRESENT
    with Largest() as largest:
        neuron.total(values)
    assert largest.elements == PRESENT.numel()
