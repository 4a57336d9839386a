"""Details of a token: winners are the PyTorch model's, costs add up to the engine's counters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from spikeformers.attention import WTA, Attention, PowerOfTwoAttention, cores_of
from spikeformers.attention._blocks import first_argmax
from spikeformers.engine import Description, Engine, TokenDetails
from spikeformers.engine.details import layers_of
from spikeformers.errors import UsageError
from spikeformers.export import pack
from spikeformers.kernels import native

Make = Callable[..., Any]
Ids = Callable[..., list[int]]

WINNERS: dict[str, dict[str, Any]] = {
    "hard": {},
    "top-3": {"wta": "top_k"},
    "top-2-mean": {"wta": "top_k", "winners": 2, "winner_weight": "mean"},
    "three steps": {"wta": "top_k", "neuron": "lif", "steps": 3, "threshold": 0.5},
    "learned positions": {"position": "learned"},
    "signed counts": {"neuron": "dead-zone", "levels": 64, "step_size": 0.125},
    "powers of two": {"attention": "power-of-two", "weight_digits": 1},
    "three digits, two steps": {"attention": "power-of-two", "weight_digits": 3, "steps": 2},
}


@torch.no_grad()
def torch_winners(model: Any, tokens: list[int]) -> list[torch.Tensor]:
    """For each layer, the keys that won in any step, ``[H, T, J]``, in double precision.

    Those with a weight or, where weights are grades, the first of greatest weight.
    """
    winners: list[torch.Tensor] = []

    def keep(core: Attention, given: tuple[torch.Tensor, ...]) -> None:
        q, k, _, allowed = given[:4]
        bias = given[4] if len(given) == 5 else None
        weights = core.weights(q, k, allowed, bias)
        won = weights != 0
        if isinstance(core, PowerOfTwoAttention):
            won = torch.zeros_like(won).scatter(-1, first_argmax(weights)[1], value=True)
        winners.append(won[:, 0].any(0))

    cores = [core for core in cores_of(model) if isinstance(core, WTA | PowerOfTwoAttention)]
    handles = [core.register_forward_pre_hook(keep) for core in cores]
    model.double()(torch.tensor([tokens]))
    for handle in handles:
        handle.remove()
    return winners


def token_by_token(engine: Engine, tokens: list[int]) -> list[TokenDetails]:
    text, details = engine.sequence(details=True), []
    for token in tokens:
        engine.advance(text, token)
        details.append(engine.details(text))
    return details


@pytest.mark.parametrize("variant", [*WINNERS, "converted-cwssa", "converted-power-of-two"])
def test_winners_are_those_of_the_pytorch_model(
    variant: str, make_model: Make, make_other: Make, ids: Ids
) -> None:
    converted, tokens = variant not in WINNERS, ids(1, 80)
    model = make_other(variant) if converted else make_model(**WINNERS[variant])
    details = token_by_token(Engine(pack(model, None, "fp32"), threads=2), tokens)
    expected = torch_winners(model, tokens)
    assert len(expected) == (1 if converted else model.config.num_hidden_layers)
    for place, token in enumerate(details):
        assert len(token.layers) == len(expected)
        for layer, won in zip(token.layers, expected, strict=True):
            assert layer.winners is not None
            assert [sorted(head) for head in layer.winners] == [
                won[head, place].nonzero().flatten().tolist() for head in range(won.shape[0])
            ]
    different = {head for token in details for layer in token.winners or () for head in layer or ()}
    assert len(different) > 9


def test_winners_come_best_first(make_model: Make, ids: Ids) -> None:
    """The first of three winners is the winner of the same model with one winner."""
    tokens = ids(2, 60)
    three, one = (
        token_by_token(Engine(pack(make_model(wta="top_k", winners=n), None, "fp32")), tokens)
        for n in (3, 1)
    )
    first = [
        [[head[0] for head in token.layers[0].winners or ()] for token in run]
        for run in (three, one)
    ]  # of the first layer, which reads the same in both models
    assert first[0] == first[1]


def test_a_prompt_leaves_the_details_of_its_last_token(make_model: Make, ids: Ids) -> None:
    tokens = ids(3, 70)
    engine = Engine(pack(make_model(wta="top_k"), None, "int8"), threads=2)
    alone = token_by_token(engine, tokens)
    text = engine.sequence(details=True)
    engine.feed_all(text, tokens)
    assert engine.details(text) == alone[-1]
    shorter = engine.sequence(details=True)
    engine.feed(shorter, tokens)  # logits of the last token alone, so that the head ran once
    assert engine.details(shorter).layers == alone[-1].layers
    assert engine.details(shorter).token == alone[-1].token


@pytest.mark.parametrize("weights", ["fp32", "int8", "int4"])
@pytest.mark.parametrize(
    "variant",
    [
        {},
        {"attention": "ssa"},
        {"neuron": "lif", "steps": 2},
        {"neuron": "dead-zone", "levels": 64},
    ],
)
def test_costs_add_up_to_the_counters(
    variant: dict[str, Any], weights: str, make_model: Make, ids: Ids
) -> None:
    assert_costs_are_counted(Engine(pack(make_model(**variant), None, weights)), ids(4, 40))


@pytest.mark.parametrize(
    "kind", ["bispikclm", "converted-ssa", "converted-cwssa", "converted-kept", "converted-token"]
)
@pytest.mark.parametrize("weights", ["fp32", "int8"])
def test_costs_of_other_models_add_up_too(
    kind: str, weights: str, make_other: Make, ids: Ids
) -> None:
    engine = Engine(pack(make_other(kind), None, weights))
    assert_costs_are_counted(engine, ids(5, 40))
    assert len(token_by_token(engine, [1])[0].layers) == 1
    has_winners = token_by_token(engine, [1, 2])[1].winners is not None
    assert has_winners == (kind == "converted-cwssa")


def assert_costs_are_counted(engine: Engine, tokens: list[int]) -> None:
    before = engine.counters()
    details = token_by_token(engine, tokens)
    counters = {name: count - before[name] for name, count in engine.counters().items()}
    for name in ("neurons", "events", "weight_bytes"):
        assert sum(getattr(each.token, name) for each in details) == counters[name] > 0
        assert getattr(details[-1].total, name) == counters[name]
        for each in details:
            in_layers = sum(getattr(layer.cost, name) for layer in each.layers)
            assert 0 < in_layers <= getattr(each.token, name)
    assert [each.tokens for each in details] == list(range(1, len(tokens) + 1))
    assert 0 < details[-1].token.density < 1


def test_a_batch_keeps_the_details_of_each_sequence_apart(make_model: Make, ids: Ids) -> None:
    engine = Engine(pack(make_model(), None, "int8"), threads=2)
    one, other = ids(6, 30), ids(7, 30)
    alone = token_by_token(engine, one), token_by_token(engine, other)
    texts = [engine.sequence(details=True), engine.sequence(), engine.sequence(details=True)]
    for place in range(30):
        engine.step(texts, [one[place], 5, other[place]])
        assert engine.details(texts[0]) == alone[0][place]
        assert engine.details(texts[2]) == alone[1][place]
    assert alone[0][-1] != alone[1][-1]


def test_every_instruction_set_gives_the_same_details(make_model: Make, ids: Ids) -> None:
    packed = pack(make_model(wta="top_k", levels=3), None, "int8")
    names = [name for name, runs, _ in native().paths() if runs]
    runs = [token_by_token(Engine(packed, threads=2, kernels=name), ids(8, 70)) for name in names]
    assert len(runs) >= 2
    assert all(run == runs[0] for run in runs)


def test_details_change_no_result(make_model: Make, ids: Ids) -> None:
    engine, tokens = Engine(pack(make_model(wta="top_k"), None, "int8")), ids(9, 60)
    plain = engine.feed_all(engine.sequence(), tokens)
    assert np.array_equal(plain, engine.feed_all(engine.sequence(details=True), tokens))


def test_dense_bytes_are_those_of_all_matrices(make_model: Make) -> None:
    """Widths 32 and 72, two layers, a tied head of 61 tokens: one byte per weight in int8."""
    each = 32 * 96 + 32 * 32 + 32 * 72 + 72 * 32
    for weights, size in (("int8", 1), ("fp32", 4)):
        engine = Engine(pack(make_model(), None, weights))
        assert engine.dense_weight_bytes == size * (2 * each + 32 * 61)


def test_a_sequence_without_details_is_refused(make_model: Make) -> None:
    engine = Engine(pack(make_model(), None, "fp32"))
    with pytest.raises(UsageError, match="keeps no details"):
        engine.details(engine.sequence())
    other = Engine(pack(make_model(), None, "fp32"))
    with pytest.raises(UsageError, match="another program"):
        engine.details(other.sequence(details=True))
    with pytest.raises(UsageError, match="another program"):
        engine.keep_details(other.sequence())


def test_a_sequence_can_keep_details_from_a_token_on(make_model: Make, ids: Ids) -> None:
    engine, tokens = Engine(pack(make_model(), None, "int8")), ids(10, 40)
    whole = token_by_token(engine, tokens)
    text = engine.sequence()
    engine.feed(text, tokens[:30])
    engine.keep_details(text)
    engine.feed(text, tokens[30:])
    details = engine.details(text)
    assert (details.layers, details.tokens) == (whole[-1].layers, 10)
    assert details.total.neurons < whole[-1].total.neurons


def test_an_operation_belongs_to_the_layer_it_names_or_that_of_the_one_before() -> None:
    to = Description(vocabulary=5)
    to.linear("x", "y", "layers.7.up")
    to.add("y", "x")
    to.linear("x", "y", "layers.2.up")
    to.select("x", "last")
    to.linear("last", "logits", "layers.2.head")
    assert layers_of([{"op": "embed", "out": "x"}, *to.operations]) == [-1, 0, 0, 1, -1, -1]
