"""LIF: trajectories worked by hand, gradients in closed form, agreement with snnTorch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from spikeformers.errors import ConfigError
from spikeformers.neurons import LIF, SURROGATES

CURRENT = [0.6, 2.1, 0.7, 0.2]
# decay 0.5, threshold 1. Membrane U, spike S, carry H, step by step:
#   soft     0.6 0 0.3 | 2.4  1  0.5 (2.4 - 1) = 0.7 | 1.4  1  0.2 | 0.4  0  0.2
#   hard     0.6 0 0.3 | 2.4  1  0                   | 0.7  0  0.35 | 0.55  0  0.275
#   delayed  0.6 0 0.3 | 2.4  1  1.2 - 1 = 0.2       | 0.9  0  0.45 | 0.65  0  0.325
BY_HAND = {
    "soft": ([0, 1, 1, 0], [0.3, 0.7, 0.2, 0.2]),
    "hard": ([0, 1, 0, 0], [0.3, 0.0, 0.35, 0.275]),
    "delayed": ([0, 1, 0, 0], [0.3, 0.2, 0.45, 0.325]),
}


def run(neuron: LIF, current: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    carry, spikes, carries = None, [], []
    for now in current:
        s, carry = neuron.step(now, carry)
        spikes.append(s)
        carries.append(carry)
    return torch.stack(spikes), torch.stack(carries)


@pytest.mark.parametrize("reset", BY_HAND)
def test_trajectory_by_hand(reset: Any) -> None:
    neuron = LIF(decay=0.5, threshold=1.0, reset=reset)
    spikes, carries = run(neuron, torch.tensor(CURRENT))
    expected_spikes, expected_carries = BY_HAND[reset]
    assert spikes.tolist() == expected_spikes
    torch.testing.assert_close(carries, torch.tensor(expected_carries))
    assert neuron(torch.tensor(CURRENT)).tolist() == expected_spikes


def test_threshold_and_decay_by_hand() -> None:
    # decay 0.75, threshold 2, soft: U = 1.6, then 1.2 + 1.0 = 2.2 fires, H = 0.15; then 2.05 fires.
    neuron = LIF(decay=0.75, threshold=2.0, reset="soft")
    spikes, carries = run(neuron, torch.tensor([1.6, 1.0, 1.9]))
    assert spikes.tolist() == [0, 1, 1]
    torch.testing.assert_close(carries, torch.tensor([1.2, 0.15, 0.0375]))


def test_threshold_itself_fires() -> None:
    assert LIF(threshold=1.0)(torch.tensor([[0.999, 1.0, 1.001]])).tolist() == [[0, 1, 1]]


@pytest.mark.parametrize("name", SURROGATES)
@pytest.mark.parametrize("reset", ["soft", "hard", "delayed"])
def test_gradient_in_closed_form_over_two_steps(reset: Any, name: str) -> None:
    decay, threshold, sharpness = 0.6, 0.9, 1.3
    first = torch.tensor([0.2, 0.8, 0.95, 1.4], dtype=torch.float64, requires_grad=True)
    second = torch.tensor([0.5, 0.3, 0.9, 0.7], dtype=torch.float64, requires_grad=True)
    neuron = LIF(decay, threshold, reset, name, sharpness)
    spikes = neuron(torch.stack([first, second]))
    spikes[1].sum().backward()

    u1 = first.detach()
    s1 = (u1 >= threshold).double()
    g1 = SURROGATES[name](u1 - threshold, sharpness)
    carry, slope = {
        "soft": (decay * (u1 - threshold * s1), decay * (1 - threshold * g1)),
        "hard": (decay * u1 * (1 - s1), decay * (1 - s1 - u1 * g1)),
        "delayed": (decay * u1 - threshold * s1, decay - threshold * g1),
    }[reset]
    g2 = SURROGATES[name](carry + second.detach() - threshold, sharpness)
    torch.testing.assert_close(second.grad, g2)
    torch.testing.assert_close(first.grad, g2 * slope)


@pytest.mark.parametrize(
    ("reset", "mechanism", "delay"),
    [("soft", "subtract", False), ("delayed", "subtract", True), ("hard", "zero", False)],
)
@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_agrees_with_snntorch_step_by_step(
    reset: Any, mechanism: str, delay: bool, decay: float
) -> None:
    """snnTorch's membrane is U with a delayed reset and U after its reset otherwise.

    Our carry is that membrane already decayed (soft, hard), or decayed and reset (delayed).
    With an undelayed subtraction snnTorch looks at a membrane that has been reset once more where
    it still is over the threshold, so the currents here keep U under two thresholds.
    """
    snntorch = pytest.importorskip("snntorch")
    torch.manual_seed(0)
    threshold = 1.0
    # U <= decay * threshold + current < 2 thresholds.
    current = (torch.rand(60, 5, 7) * 1.4 - 0.3) * (2 - decay) / 1.1 * 0.95
    theirs = snntorch.Leaky(
        beta=decay, threshold=threshold, reset_mechanism=mechanism, reset_delay=delay
    )
    ours = LIF(decay, threshold, reset)
    membrane, carry = torch.zeros(5, 7), None
    fired = 0
    for now in current:
        spikes, carry_next = ours.step(now, carry)
        u = now if carry is None else carry + now
        expected, membrane = theirs(now, membrane)
        assert torch.equal(spikes, expected)
        if delay:
            torch.testing.assert_close(u, membrane)
        else:
            torch.testing.assert_close(carry_next, decay * membrane)
        carry = carry_next
        fired += int(spikes.sum())
    assert 200 < fired < 1900  # neither silent nor always on
    assert torch.equal(ours(current).sum(), torch.tensor(float(fired)))


def test_unknown_reset_and_surrogate() -> None:
    with pytest.raises(ConfigError, match="unknown reset 'softly'; known: soft, hard, delayed"):
        LIF(reset="softly")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="Did you mean 'sigmoid'"):
        LIF(surrogate_name="sigmoi")


def test_a_learned_threshold_starts_where_it_is_told_and_stays_positive() -> None:
    neuron = LIF(0.5, 0.7, "delayed", threshold_shape=(2, 1))
    assert dict(neuron.named_parameters()).keys() == {"log_threshold"}
    torch.testing.assert_close(neuron.v_th, torch.full((2, 1), 0.7))
    with torch.no_grad():
        neuron.log_threshold.copy_(torch.tensor([[0.0], [-3.0]]))
    # thresholds 1 and exp(-3) = 0.05, one per row
    assert neuron(torch.full((1, 2, 3), 0.5))[0].tolist() == [[0, 0, 0], [1, 1, 1]]
    neuron.reset_parameters()
    torch.testing.assert_close(neuron.v_th, torch.full((2, 1), 0.7))


def test_a_learned_threshold_has_the_gradient_of_both_its_places() -> None:
    neuron = LIF(0.5, 1.0, "delayed", threshold_shape=(1,)).double()
    current = torch.tensor([[1.2], [0.9]], dtype=torch.float64)
    neuron(current).sum().backward()
    # U = 1.2 fires; U = 0.6 + 0.9 - 1 = 0.5. g(x) = 1 / (1 + (pi x)^2).
    g0, g1 = (1 / (1 + (torch.pi * x) ** 2) for x in (0.2, -0.5))
    # dS0 = -g0; dS1 = g1 (-1 - S0 - dS0 V_th) with S0 = 1, V_th = 1; and d V_th / d log V_th = 1.
    expected = -g0 + g1 * (-1 - 1 + g0)
    torch.testing.assert_close(neuron.log_threshold.grad, torch.tensor([expected]).double())
