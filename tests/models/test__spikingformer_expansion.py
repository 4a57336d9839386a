"""Binary expansion: sub-steps of zeros and ones give the logits that counts give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from spikeformers.errors import ConfigError
from spikeformers.neurons import Neuron, observe

Make = Callable[..., Any]
Choices = dict[str, Any]
F64 = torch.float64


def ids(seed: int, batch: int, tokens: int, vocab: int = 23) -> Tensor:
    return torch.randint(0, vocab, (batch, tokens), generator=torch.Generator().manual_seed(seed))


EXPANDABLE: list[Choices] = [
    {"neuron": "ni-lif", "levels": 4, "steps": 1},
    {"neuron": "ni-lif", "levels": 2, "steps": 1},
    {"neuron": "ni-lif", "levels": 4, "steps": 2},
    {"neuron": "ni-lif", "levels": 2, "steps": 2},
    {"neuron": "i-lif", "levels": 2, "steps": 1},
    {"neuron": "i-lif", "levels": 4, "steps": 2},
    {"neuron": "lif", "levels": 1, "steps": 1},
    {"neuron": "lif", "levels": 1, "steps": 2},
]


def named(choices: Choices) -> str:
    return "-".join(str(v) for v in choices.values())


@pytest.fixture
def attention(attention: Choices) -> Choices:
    if attention["attention"] == "a2os2a":
        pytest.skip("its K is real and its V has a sign, so nothing expands")
    return attention


@torch.no_grad()
@pytest.mark.parametrize("spiking_head", [False, True])
@pytest.mark.parametrize("choices", EXPANDABLE, ids=named)
def test_binary_model_gives_the_same_logits(
    make_model: Make, attention: Choices, choices: Choices, spiking_head: bool
) -> None:
    model = make_model("wd", dtype=F64, spiking_head=spiking_head, **attention, **choices)
    tokens = ids(2, 2, 9)
    logits = model(tokens).logits
    binary = model.expand_to_binary()
    seen: set[str] = set()

    def check(name: str, neuron: Neuron, spikes: Tensor) -> None:
        assert spikes.shape[0] == neuron.levels == choices["levels"]
        assert bool(((spikes == 0) | (spikes == 1)).all()), name
        if spikes.any():
            seen.add(name)

    with observe(binary, check):
        torch.testing.assert_close(binary(tokens).logits, logits, rtol=0, atol=1e-9)
    assert len(seen) == sum(isinstance(m, Neuron) for m in model.modules())
    # The model itself is as it was, and it can be cached in either form.
    assert torch.equal(model(tokens).logits, logits)
    past = binary(tokens[:, :5], use_cache=True).past_key_values
    rest = binary(tokens[:, 5:], past_key_values=past, use_cache=True).logits
    torch.testing.assert_close(rest, logits[:, 5:], rtol=0, atol=1e-9)


@torch.no_grad()
def test_masked_binary_model_gives_the_same_logits(make_model: Make) -> None:
    model = make_model("we", dtype=F64)
    tokens = ids(2, 2, 9)
    binary = model.expand_to_binary()
    torch.testing.assert_close(binary(tokens).logits, model(tokens).logits, rtol=0, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("levels", [3, 5])
def test_binary_model_where_levels_are_no_power_of_two(make_model: Make, levels: int) -> None:
    """Without a bias equal counts tie, and 1/3 is not exact: the same key has to win."""
    model = make_model("wd", dtype=F64, levels=levels, position="learned", hidden_size=64)
    tokens = ids(2, 4, 24)
    binary = model.expand_to_binary()
    torch.testing.assert_close(binary(tokens).logits, model(tokens).logits, rtol=0, atol=1e-6)


@torch.no_grad()
def test_binary_model_reports_the_same_attention(make_model: Make, attention: Choices) -> None:
    model = make_model("wd", dtype=F64, **attention)
    tokens = ids(2, 2, 9)
    expected = model(tokens, output_attentions=True).attentions
    got = model.expand_to_binary()(tokens, output_attentions=True).attentions
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


SIGNED: Choices = {"neuron": "dead-zone", "levels": 12, "step_size": 0.25, "dead_zone": 0.3}
MIXED: Choices = {
    "in": SIGNED,
    "mlp_in": {"levels": 3},
    "query": SIGNED | {"levels": 5},
    "key": SIGNED | {"levels": 8, "signed": False},
    "value": SIGNED | {"levels": 2, "step_size": 0.5},
    "out": SIGNED | {"levels": 9},
    "hidden": {"neuron": "i-lif", "levels": 6},
    "head": SIGNED | {"levels": 7, "step_size": 0.5},
}


@torch.no_grad()
@pytest.mark.parametrize(
    "choices",
    [
        SIGNED | {"projection_norm": False},
        SIGNED | {"signed": False, "steps": 2},
        {"neurons": MIXED},
    ],
    ids=["signed, learned gains", "one-sided, two steps", "every place its own"],
)
def test_on_and_off_spikes_give_the_logits_of_signed_counts(
    make_model: Make, attention: Choices, choices: Choices
) -> None:
    if "neurons" in choices and attention.get("wta") == "hard":
        # One winner's spikes do not fire again.
        choices = {"neurons": {place: own for place, own in MIXED.items() if place != "out"}}
    model = make_model(
        "wd", dtype=F64, token_shift=True, spiking_head=True, **(attention | choices)
    )
    tokens = ids(2, 2, 9)
    logits, binary = model(tokens).logits, model.expand_to_binary()
    off: set[str] = set()

    def check(name: str, neuron: Neuron, spikes: Tensor) -> None:
        assert spikes.shape[0] == neuron.levels * (2 if neuron.signed else 1)
        assert bool(((spikes == 0) | (spikes == 1)).all()), name
        if neuron.signed and spikes[neuron.levels :].any():
            off.add(name)
            assert not (spikes[0] * spikes[neuron.levels]).any()  # ON or OFF, never both

    with observe(binary, check):
        torch.testing.assert_close(binary(tokens).logits, logits, rtol=0, atol=1e-9)
    assert off == {n for n, part in binary.named_modules() if getattr(part, "signed", False)}
    past = binary(tokens[:, :5], use_cache=True).past_key_values
    rest = binary(tokens[:, 5:], past_key_values=past, use_cache=True).logits
    torch.testing.assert_close(rest, logits[:, 5:], rtol=0, atol=1e-9)
    if model.model.layers[0].attention.core.weights_are_binary:
        expected = model(tokens, output_attentions=True).attentions
        got = binary(tokens, output_attentions=True).attentions
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@torch.no_grad()
def test_a_masked_model_of_signed_counts_expands(make_model: Make) -> None:
    model = make_model("we", dtype=F64, wta="top_k", spiking_head=True, neurons=MIXED)
    tokens = ids(2, 2, 9)
    binary = model.expand_to_binary()
    torch.testing.assert_close(binary(tokens).logits, model(tokens).logits, rtol=0, atol=1e-9)


def test_ternary_spikes_do_not_expand(make_model: Make) -> None:
    message = "that of model.layers.0.attention.fire_in.neuron is ternary"
    with pytest.raises(ConfigError, match=message):
        make_model("wd", neuron="t-lif").expand_to_binary()


def test_real_keys_do_not_expand(make_model: Make) -> None:
    model = make_model("wd", attention="a2os2a", position="learned", value_neuron="binary")
    with pytest.raises(ConfigError, match="K of A2OS2A is real"):
        model.expand_to_binary()


def test_a_model_in_training_with_a_penalty_can_be_expanded(make_model: Make) -> None:
    model = make_model("wd", firing_rate_weight=1.0)
    model.train()
    tokens = ids(3, 2, 6)
    model(tokens, labels=tokens).loss.backward()
    binary = model.expand_to_binary()
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(binary(tokens).logits, model(tokens).logits, rtol=0, atol=1e-4)
