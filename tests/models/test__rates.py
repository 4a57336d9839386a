"""Targets by component: which layer pays above which density, worked by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from spikeformers.errors import ConfigError
from spikeformers.models import (
    BiSpikCLMConfig,
    BiSpikCLMForCausalLM,
    WDSpikingformerConfig,
    WDSpikingformerForCausalLM,
)
from spikeformers.models._rates import Rates, rate_loss, read_shares
from spikeformers.neurons import Activity, Neuron, neurons_of, observe

Make = Callable[..., Any]


def activity(model: Any, tokens: Tensor) -> dict[str, tuple[float, float]]:
    """(mean count, density) of each neuron layer."""
    activities: dict[str, tuple[float, float]] = {}

    def note(name: str, neuron: Neuron, spikes: Tensor) -> None:
        count = spikes.abs().mean().item() / neuron.unit
        activities[name] = (count, (spikes != 0).float().mean().item())

    with observe(model, note):
        model(tokens)
    return activities


@pytest.mark.parametrize("kind", ["wd", "we"])
def test_the_key_with_most_parts_holds(make_model: Make, kind: str) -> None:
    """Everything is above its target of 0 but what a key lets off with 0.99."""
    tokens = torch.arange(16).view(2, 8) % 7
    every = activity(make_model(kind).train(), tokens)
    assert all(count > 0 for count, _ in every.values())
    targets = {"mlp": 0.99, "mlp.fire_hidden": 0.0, "layers.0.attention": 0.99}
    model = make_model(
        kind, firing_rate_weight=2.0, firing_rate_target=0.0, firing_rate_targets=targets
    )
    paying = [
        count
        for name, (count, _) in every.items()
        if name != "head_neuron"
        and not name.endswith("mlp.fire_in.neuron")
        and "layers.0.attention" not in name
    ]
    assert 0 < len(paying) < len(every)
    rate = model.train()(tokens).rate_loss
    assert rate.item() == pytest.approx(2.0 * sum(paying), rel=1e-4)


def test_of_keys_with_as_many_parts_the_last_holds(make_model: Make) -> None:
    """The last key lets off all layers, or those of the attention."""
    tokens = torch.arange(16).view(2, 8) % 7
    every = activity(make_model("wd").train(), tokens)
    rest = sum(count for name, (count, _) in every.items() if "attention" not in name)
    assert 0 < rest < sum(count for count, _ in every.values())
    for keys, expected in ((("attention", "layers"), 0.0), (("layers", "attention"), rest)):
        targets = dict(zip(keys, (0.0, 0.99), strict=True))
        model = make_model("wd", firing_rate_weight=1.0, firing_rate_targets=targets)
        assert model.train()(tokens).rate_loss.item() == pytest.approx(expected, rel=1e-4)


def test_the_head_pays_where_it_is_named(make_model: Make) -> None:
    tokens = torch.arange(16).view(2, 8) % 7
    count, density = activity(make_model("wd", spiking_head=True).train(), tokens)["head_neuron"]
    for targets, expected in ((None, 0.0), ({"head": density / 2}, count)):
        model = make_model(
            "wd",
            spiking_head=True,
            firing_rate_weight=1.0,
            firing_rate_target=0.99,
            firing_rate_targets=targets,
        )
        rate = model.train()(tokens).rate_loss
        assert rate.item() == pytest.approx(expected, rel=1e-4)


def test_a_key_that_fits_nothing_is_refused(make_model: Make) -> None:
    model = make_model(
        "wd", spiking_head=True, firing_rate_weight=1.0, firing_rate_targets={"mlp.fire_out": 0.1}
    )
    with pytest.raises(ConfigError, match=r"'mlp.fire_out'.*mlp.fire_hidden.*head"):
        model.train()(torch.zeros(1, 4, dtype=torch.long))


def test_the_head_of_a_classifier_has_no_neuron_to_pay(make_model: Make) -> None:
    """It may begin from a masked model whose head pays; a head without a neuron never could."""
    choices = {"spiking_head": True, "firing_rate_weight": 1.0, "firing_rate_targets": {"head": 0}}
    tokens = torch.arange(16).view(2, 8)
    losses = [
        make_model("we-classifier", **(choices | changes)).train()(tokens, labels=LABELS[:2]).loss
        for changes in ({}, {"firing_rate_targets": None})
    ]
    assert torch.equal(*losses)
    with pytest.raises(ConfigError, match=r"'head'.*spiking_head"):
        make_model("we", **(choices | {"spiking_head": False}))


@pytest.mark.parametrize("value", [-0.1, 1.0])
def test_a_target_that_is_no_density_is_refused(make_model: Make, value: float) -> None:
    with pytest.raises(ConfigError, match=r"firing_rate_targets\['mlp'\] must be a density"):
        make_model("wd", firing_rate_targets={"mlp": value})


def test_rate_loss_by_hand(make_model: Make) -> None:
    """0.5 * (2 + 3): the second layer is at its target, and pays nothing."""
    config = make_model("wd", firing_rate_weight=0.5).config
    activities = [
        Activity(torch.tensor(2.0), torch.tensor(0.25), 0.2, recorded=True),
        Activity(torch.tensor(7.0), torch.tensor(0.25), 0.25, recorded=True),
        Activity(torch.tensor(3.0), torch.tensor(0.01), 0.0, recorded=True),
    ]
    rates = Rates(activities)
    loss = rate_loss(config, rates)
    assert loss is not None
    assert loss.item() == 2.5
    assert rates == []
    rates.append(Activity(torch.ones(()), torch.ones(()), 0.1, True))
    assert rates == []  # of the backward pass, which computes checkpointed blocks again
    assert rate_loss(config, Rates()) is None


# --- padding --------------------------------------------------------------------------------------

F64 = torch.float64
LENGTHS = (7, 4, 9)
LABELS = torch.tensor([0, 1, 0])
PADDED_KINDS = ["wd", "wd-shift", "wd-t-lif", "we", "we-classifier", "bispikclm", "bispikclm-head"]


def penalised(make_model: Make, kind: str, **choices: Any) -> Any:
    """A model in training whose every layer pays, the one before the head too."""
    choices = {"firing_rate_weight": 0.5, "firing_rate_target": 0.0, **choices}
    head = {"spiking_head": True, "firing_rate_targets": {"head": 0.0}}
    if kind.startswith("bispikclm"):
        torch.manual_seed(0)
        more = head if kind.endswith("head") else {}
        config = BiSpikCLMConfig(
            vocab_size=23, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=32, steps=2, initializer_range=0.5, **more, **choices,
        )  # fmt: skip
        return BiSpikCLMForCausalLM(config).to(F64).train()
    if kind == "wd-shift":
        choices |= {"token_shift": True}
    if kind == "wd-t-lif":
        choices |= {"neuron": "t-lif", "steps": 2, "threshold": 0.75}
    if kind != "we-classifier":
        choices |= head
    kind = kind.removesuffix("-shift").removesuffix("-t-lif")
    return make_model(kind, dtype=F64, max_position_embeddings=32, **choices).train()


def padded(side: str, width: int) -> dict[str, Tensor]:
    """Texts of LENGTHS in rows of ``width``; what fills them differs from row to row."""
    generator = torch.Generator().manual_seed(5)
    texts = [torch.randint(0, 23, (n,), generator=generator) for n in LENGTHS]
    ids, mask = torch.zeros(3, width, dtype=torch.long), torch.zeros(3, width, dtype=torch.long)
    for row, text in enumerate(texts):
        ids[row] = 11 * row
        place = slice(width - len(text), width) if side == "left" else slice(0, len(text))
        ids[row, place], mask[row, place] = text, 1
    return {"input_ids": ids, "attention_mask": mask}


def term_of(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """The term alone, of a classifier too, which does not say it."""
    if hasattr(model, "classifier"):
        with_term = model(**batch, labels=LABELS[: len(batch["input_ids"])]).loss
        weight, model.config.firing_rate_weight = model.config.firing_rate_weight, 0.0
        task = model(**batch, labels=LABELS[: len(batch["input_ids"])]).loss
        model.config.firing_rate_weight = weight
        return with_term - task
    return model(**batch).rate_loss


def gradient(model: Any, term: Tensor) -> Tensor:
    model.zero_grad()
    term.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", PADDED_KINDS)
def test_the_term_is_that_of_the_texts_alone(make_model: Make, kind: str, side: str) -> None:
    """By hand: sums over texts that were run one by one; whatever fills the rows, and how far."""
    model = penalised(make_model, kind)
    sums: dict[str, list[float]] = {}

    def note(name: str, neuron: Neuron, spikes: Tensor) -> None:
        counted = sums.setdefault(name, [0.0, 0.0])
        counted[0] += spikes.abs().sum().item() / neuron.unit
        counted[1] += spikes.numel()

    exact = padded(side, max(LENGTHS))
    with observe(model, note), torch.no_grad():
        for row, keep in zip(exact["input_ids"], exact["attention_mask"].bool(), strict=True):
            model(row[keep][None])
    expected = 0.5 * sum(count / size for count, size in sums.values())
    grads = []
    for width in (max(LENGTHS), max(LENGTHS) + 1, 32):
        term = term_of(model, padded(side, width))
        assert term.item() == pytest.approx(expected, rel=1e-6)
        grads.append(gradient(model, term))
    for other in grads[1:]:
        torch.testing.assert_close(other, grads[0], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("wd", "layers.0.attention.fire_query"),
        ("we", "layers.1.mlp.fire_hidden"),
        ("we-classifier", "layers.1.mlp.fire_hidden"),
        ("bispikclm", "model.encoder"),
        ("bispikclm", "layers.0.attention.core"),
    ],
)
def test_whether_a_layer_pays_does_not_depend_on_padding(
    make_model: Make, kind: str, key: str
) -> None:
    """It pays where its target is a little under its density on the texts alone."""
    batch, model, fired = padded("right", 9), penalised(make_model, kind), [0, 0]

    def note(name: str, neuron: Neuron, spikes: Tensor) -> None:
        if key in name:
            fired[0] += int((spikes != 0).sum())
            fired[1] += spikes.numel()

    with observe(model, note), torch.no_grad():
        for row, keep in zip(batch["input_ids"], batch["attention_mask"].bool(), strict=True):
            model(row[keep][None])
    density = fired[0] / fired[1]
    assert 0 < density < 1
    for target in (density * 0.999, density * 1.001):
        model.config.firing_rate_target = 0.9999
        model.config.firing_rate_targets = {key: target}
        assert bool(term_of(model, padded("right", 32)) > 1e-9) is (target < density)


def test_a_mask_of_ones_is_no_mask(make_model: Make) -> None:
    tokens = torch.arange(16).view(2, 8)
    model = penalised(make_model, "wd")
    without = model(tokens).rate_loss
    assert model(tokens, attention_mask=torch.ones(2, 8)).rate_loss.item() == pytest.approx(
        without.item(), rel=1e-12
    )
    model(tokens, attention_mask=torch.ones(2, 8).tril())
    assert torch.equal(model(tokens).rate_loss, without)  # nothing is left of the mask before


# --- gradient checkpointing -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["wd", "we", "we-classifier", "bispikclm"])
def test_reentrant_checkpointing_is_refused(make_model: Make, kind: str) -> None:
    """It would keep the term out of all gradients; without the term it is as good as the other."""
    batch = padded("right", 12)
    labels = LABELS if kind == "we-classifier" else batch["input_ids"]
    grads = []
    for reentrant in (None, False, True):
        model = penalised(make_model, kind)
        if reentrant is not None:
            model.activation_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        if reentrant:
            with pytest.raises(ConfigError, match=r"'use_reentrant': False.*firing_rate_weight=0"):
                model(**batch, labels=labels)
            model.config.firing_rate_weight = 0.0
        grads.append(gradient(model, model(**batch, labels=labels).loss))
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-9, atol=1e-12)
    plain = penalised(make_model, kind, firing_rate_weight=0.0)
    task = gradient(plain, plain(**batch, labels=labels).loss)
    assert not torch.allclose(grads[0], task, rtol=1e-3)
    torch.testing.assert_close(grads[2], task, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["wd", "bispikclm"])
def test_two_forward_passes_may_come_before_the_backward(make_model: Make, kind: str) -> None:
    """What is computed again leaves out the padding of its own pass, not of the last one."""
    grads = []
    for checkpointing in (False, True):
        model = penalised(make_model, kind)
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        left, right = (model(**padded(side, 12)).rate_loss for side in ("left", "right"))
        grads.append(gradient(model, 3 * left + right))
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-9, atol=1e-12)


def test_masks_of_columns_and_of_pairs_leave_the_same_padding_out() -> None:
    torch.manual_seed(0)
    config = WDSpikingformerConfig(
        **{"vocab_size": 31, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
        **{"max_position_embeddings": 16, "initializer_range": 0.3},
        firing_rate_targets={"head": 0.05},
    )
    model = WDSpikingformerForCausalLM(config).train()
    ids = torch.randint(3, 31, (2, 9))
    columns = torch.ones(2, 9, dtype=torch.long)
    columns[0, 6:] = 0
    pairs = columns[:, None, None, :].bool() & torch.ones(9, 9, dtype=torch.bool).tril()
    pairs = pairs & columns[:, None, :, None].bool()
    losses = [
        model(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(columns == 0, -100))
        for mask in (columns, pairs)
    ]
    assert losses[0].rate_loss.item() == losses[1].rate_loss.item() > 0
    assert losses[0].loss.item() == losses[1].loss.item()


DEAD_ZONE = {"neuron": "dead-zone", "levels": 64}
BUDGETED: dict[str, Any] = {
    "spiking_head": True,
    "firing_rate_weight": 1.0,
    "firing_rate_target": 0.99,
    "neurons": dict.fromkeys(("in", "query", "key", "value", "hidden", "head"), DEAD_ZONE),
}


def test_a_layers_share_is_that_of_the_weights_that_read_it(make_model: Make) -> None:
    """Width 16, hidden 32, two layers, vocabulary 23: 2 (4 16^2 + 2 16 32) + 23 16 weights."""
    model = make_model("wd", **BUDGETED)
    shares = {name: read_shares(model).get(n) for name, n in neurons_of(model).items()}
    everything = 2 * (4 * 256 + 2 * 512) + 368
    for name, share in shares.items():
        read = {"attention.fire_in": 768, "fire_value": 256, "mlp": 512, "head": 368}
        expected = next((size / everything for part, size in read.items() if part in name), None)
        assert share == (None if expected is None else pytest.approx(expected)), name
    assert sum(share or 0 for share in shares.values()) == pytest.approx(1)


def test_a_budget_weighs_each_layer_by_its_share_and_reaches_thresholds_alone(
    make_model: Make,
) -> None:
    tokens = torch.arange(16).view(2, 8) % 7
    every = activity(make_model("wd", **BUDGETED).train(), tokens)
    model = make_model("wd", **BUDGETED, budget=0.01, budget_weight=3.0).train()
    shares = {n: read_shares(model).get(neuron, 0.0) for n, neuron in neurons_of(model).items()}
    expected = 3.0 * sum(0.25 * count * shares[name] for name, (count, _) in every.items())
    rate = model(tokens).rate_loss
    assert rate.item() == pytest.approx(expected, rel=1e-4)
    rate.backward()
    for name, parameter in model.named_parameters():
        if not name.endswith("neuron.threshold"):
            assert parameter.grad is None or not parameter.grad.any(), name
        elif shares[name.removesuffix(".threshold")]:
            share, (_, density) = (
                shares[name.removesuffix(".threshold")],
                every[name.removesuffix(".threshold")],
            )
            assert parameter.grad.item() == pytest.approx(-3.0 * share * density, rel=1e-4)


def test_a_budget_that_is_kept_costs_nothing(make_model: Make) -> None:
    tokens = torch.arange(16).view(2, 8) % 7
    model = make_model("wd", **BUDGETED)
    every, shares = activity(model.train(), tokens), read_shares(model)
    read = sum(
        shares.get(neuron, 0.0) * every[name][1] for name, neuron in neurons_of(model).items()
    )
    assert 0 < read < 1
    for budget, pays in ((read * 0.99, True), (read * 1.01, False)):
        loss = make_model("wd", **BUDGETED, budget=budget).train()(tokens).rate_loss
        assert (loss.item() > 0) == pays


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"neurons": None}, "no neuron before weights has one"),
        ({"neurons": {"query": DEAD_ZONE}}, "no neuron before weights has one"),
        ({"firing_rate_weight": 0.0}, "switches off the term"),
        ({"neurons": {"in": DEAD_ZONE}, "spiking_head": False}, "reads whole"),
    ],
)
def test_a_budget_that_nothing_would_hold_is_refused(
    changes: dict[str, Any], message: str, make_model: Make
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_model("wd", **{**BUDGETED, "budget": 0.3, **changes})


@pytest.mark.parametrize("key", ["budget", "budget_weight"])
def test_a_budget_out_of_range_is_refused(key: str, make_model: Make) -> None:
    with pytest.raises(ConfigError, match=f"{key} must be a number"):
        make_model("wd", **BUDGETED, **{key: -0.1})
