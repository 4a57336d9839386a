"""Queries in blocks: which keys a block has, the first maximum, and equality with the whole."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from spikeformers.attention import WTA, PowerOfTwoAttention, _blocks
from spikeformers.attention._blocks import first_argmax, query_blocks
from spikeformers.models import build_config, build_model

FAMILY: dict[str, Callable[..., Any]] = {
    "hard": partial(WTA, competition="hard"),
    "top-3": partial(WTA, competition="top_k", winners=3),
    "top-9-mean": partial(WTA, competition="top_k", winners=9, winner_weight="mean"),
    "powers of two": partial(PowerOfTwoAttention, digits=1),
    "three binary digits": partial(PowerOfTwoAttention, digits=3),
}


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> int:
    """Blocks of three queries, however few scores there are."""
    monkeypatch.setattr(_blocks, "ROWS", 3)
    monkeypatch.setattr(_blocks, "ONE_BLOCK_SCORES", 0)
    return 3


def spans(allowed: Tensor, fewest: int = 1) -> list[tuple[int, int, int]]:
    queries, keys = allowed.shape[-2:]
    q = torch.zeros(1, allowed.shape[0], 2, queries, 4)
    blocks = query_blocks(allowed, q, keys, fewest)
    return [(b.rows.start, b.rows.stop, b.keys.stop) for b in blocks]


def causal(queries: int, past: int = 0) -> Tensor:
    allowed = torch.ones(queries, past + queries, dtype=torch.bool).tril(past)
    return allowed[None, None]


# --- which keys a block has ---------------------------------------------------------------------


@pytest.mark.usefixtures("rows")
def test_a_causal_block_ends_with_its_last_query() -> None:
    assert spans(causal(7)) == [(0, 3, 3), (3, 6, 6), (6, 7, 7)]
    assert spans(causal(6, past=4)) == [(0, 3, 7), (3, 6, 10)]
    assert spans(torch.ones(1, 1, 7, 7, dtype=torch.bool)) == [(0, 3, 7), (3, 6, 7), (6, 7, 7)]


@pytest.mark.usefixtures("rows")
def test_a_block_has_the_keys_of_every_sequence_and_never_none() -> None:
    allowed = causal(6).repeat(2, 1, 1, 1)
    allowed[0, ..., 4:] = False  # right padding of one sequence
    assert spans(allowed) == [(0, 3, 3), (3, 6, 6)]
    allowed[1, ..., 4:] = False
    assert spans(allowed) == [(0, 3, 3), (3, 6, 4)]
    allowed[..., :3] = False  # the first three queries see nothing
    assert spans(allowed) == [(0, 3, 1), (3, 6, 4)]
    assert spans(allowed, fewest=2) == [(0, 3, 2), (3, 6, 4)]
    assert spans(allowed, fewest=9) == [(0, 3, 6), (3, 6, 6)]


def test_few_scores_are_one_block() -> None:
    assert spans(causal(40)) == [(0, 40, 40)]
    assert spans(causal(400))[:2] == [(0, 32, 32), (32, 64, 64)]
    assert spans(causal(400))[-1] == (384, 400, 400)


# --- the first maximum --------------------------------------------------------------------------


@given(seed=st.integers(0, 2**31 - 1), spread=st.integers(0, 3), few=st.booleans())
def test_first_argmax_is_the_lowest_index(seed: int, spread: int, few: bool) -> None:
    rng = np.random.default_rng(seed)
    shape = (2, 3, 7) if few else (2, 3, 40, 129)
    assert (np.prod(shape) < _blocks.ARGMAX_SCORES) == few
    scores = rng.integers(0, spread + 1, shape) / 3
    scores[rng.random(shape) < 0.3] = -np.inf
    scores[0, 0] = -np.inf
    for dtype in (torch.float32, torch.float64):
        given_scores = torch.tensor(scores, dtype=dtype)
        best, index = first_argmax(given_scores)
        np.testing.assert_array_equal(index[..., 0].numpy(), scores.argmax(-1))
        assert torch.equal(best, given_scores.gather(-1, index))


def test_first_argmax_of_nan_is_an_index() -> None:
    scores = torch.zeros(_blocks.ARGMAX_SCORES // 16, 16)
    scores[3] = float("nan")
    _, index = first_argmax(scores)
    assert index.unique().tolist() == [0, 15]  # 15: where nothing equals the maximum


# --- blocks against the definition, in one piece ------------------------------------------------


def masks(name: str, queries: int, past: int) -> Tensor:
    allowed = causal(queries, past).repeat(3, 1, 1, 1)
    if name == "shared":
        return allowed[:1]
    if name == "none":
        return torch.ones(1, 1, 1, past + queries, dtype=torch.bool)
    if name == "left-padded":
        allowed[1, ..., : past + 4] = False  # its first four queries see no key
    if name == "right-padded":
        allowed[2, ..., -2:] = False
    return allowed


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize("mask", ["shared", "none", "left-padded", "right-padded"])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(("queries", "past"), [(7, 0), (6, 5), (4, 1), (2, 9)])
@pytest.mark.parametrize("kind", FAMILY)
def test_blocks_equal_the_definition(
    kind: str, queries: int, past: int, with_bias: bool, mask: str
) -> None:
    """In float64: the same weights w, and the gradient of autograd through w - p.detach() + p."""
    core = FAMILY[kind](0.4, temperature=0.7, heads=2, learn_scale=True).double()
    torch.manual_seed(7)
    with torch.no_grad():
        core.log_scale[1] += 0.5
    keys = past + queries
    q, k, v = (
        torch.randint(0, 5, (2, 3, 2, tokens, 4)).double().div(4).requires_grad_()
        for tokens in (queries, keys, keys)
    )
    bias = torch.randn(2, queries, keys).double().requires_grad_() if with_bias else None
    allowed = masks(mask, queries, past)
    inputs = [x for x in (q, k, v, bias, core.log_scale) if x is not None]
    upstream = torch.randn(q.shape, dtype=torch.float64)

    expected = torch.matmul(core.weights(q, k, allowed, bias), v)
    expected_grads = torch.autograd.grad(expected, inputs, upstream)
    got = core(q, k, v, allowed, bias)
    got_grads = torch.autograd.grad(got, inputs, upstream)
    torch.testing.assert_close(got, expected)
    for a, b in zip(got_grads, expected_grads, strict=True):
        assert b.abs().max() > 1e-3
        torch.testing.assert_close(a, b)


@pytest.mark.usefixtures("rows")
@given(seed=st.integers(0, 2**31 - 1), winners=st.integers(1, 5), levels=st.sampled_from([3, 4]))
def test_blocks_have_the_winners_of_the_complete_scores(
    seed: int, winners: int, levels: int
) -> None:
    """Any mask and many ties: v numbers the keys, so that y tells who won."""
    generator = torch.Generator().manual_seed(seed)
    queries, keys = (int(torch.randint(1, 12, (), generator=generator)) for _ in range(2))
    q, k = (
        torch.randint(0, levels + 1, (1, 2, 2, tokens, 3), generator=generator) / levels
        for tokens in (queries, keys)
    )
    numbers = (2.0 ** torch.arange(keys)).view(1, 1, 1, -1, 1).expand(1, 2, 2, keys, 3)
    allowed = torch.rand(2, 1, queries, keys, generator=generator) < 0.6
    core = WTA(0.5, "top_k", winners)
    core.score_unit = None if levels == 4 else 1 / levels**2
    with torch.no_grad():
        expected = torch.matmul(core.weights(q, k, allowed, None), numbers)
        assert torch.equal(core(q, k, numbers.contiguous(), allowed), expected)


@pytest.mark.parametrize("pieces", ["one", "many"])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("kind", FAMILY)
def test_heads_as_a_model_lays_them_out(
    kind: str, batch: int, pieces: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heads inside tokens, so that a batch of one is a view where a larger one is a copy."""
    if pieces == "many":
        monkeypatch.setattr(_blocks, "ROWS", 3)
        monkeypatch.setattr(_blocks, "ONE_BLOCK_SCORES", 0)
    core = FAMILY[kind](0.4, heads=2, learn_scale=True).double()
    torch.manual_seed(3)
    q, k, v = (
        torch.randint(0, 5, (1, batch, 8, 2, 4)).double().div(4).transpose(-3, -2).requires_grad_()
        for _ in range(3)
    )
    bias = torch.randn(2, 8, 8).double().requires_grad_()
    inputs = [q, k, v, bias, core.log_scale]
    upstream = torch.randn(1, batch, 8, 2, 4).double().transpose(-3, -2)
    expected = torch.matmul(core.weights(q, k, causal(8), bias), v)
    got = core(q, k, v, causal(8), bias)
    torch.testing.assert_close(got, expected)
    for a, b in zip(
        torch.autograd.grad(got, inputs, upstream),
        torch.autograd.grad(expected, inputs, upstream),
        strict=True,
    ):
        assert b.abs().max() > 1e-3
        torch.testing.assert_close(a, b)


# --- blocks in a model --------------------------------------------------------------------------


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize(
    "attention", [{"wta": "hard"}, {"wta": "top_k"}, {"attention": "power-of-two"}], ids=str
)
def test_cache_and_padding_give_the_logits_of_the_complete_sequence(
    attention: dict[str, str],
) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, **attention}
    model = build_model(build_config("wd-spikingformer-tiny", 50, sizes)).eval()
    ids = torch.randint(0, 50, (2, 17))
    with torch.no_grad():
        complete = model(ids).logits
        first = model(ids[:, :8], use_cache=True)
        second = model(ids[:, 8:], past_key_values=first.past_key_values, use_cache=True)
        padded = model(
            torch.cat([torch.zeros(2, 5, dtype=torch.long), ids], 1),
            attention_mask=torch.cat([torch.zeros(2, 5), torch.ones(2, 17)], 1).long(),
        )
    torch.testing.assert_close(torch.cat([first.logits, second.logits], 1), complete)
    torch.testing.assert_close(padded.logits[:, 5:], complete)


@pytest.mark.parametrize("attention", ["cwssa", "power-of-two"])
def test_blocks_and_one_piece_train_alike(attention: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step at the size where blocks start by themselves, against the same without them."""
    choices = {"attention": attention, "num_hidden_layers": 1, "steps": 2}
    config = build_config("wd-spikingformer-tiny", 60, choices)
    ids = torch.randint(0, 60, (2, 101), generator=torch.Generator().manual_seed(1))
    results = []
    for whole in (_blocks.ONE_BLOCK_SCORES, 2**30):
        monkeypatch.setattr(_blocks, "ONE_BLOCK_SCORES", whole)
        torch.manual_seed(2)
        model = build_model(config).train()
        out = model(input_ids=ids, labels=ids)
        out.loss.backward()
        results.append((out.logits, [p.grad for p in model.parameters() if p.requires_grad]))
    (a, a_grads), (b, b_grads) = results
    assert torch.equal(a, b)
    for x, y in zip(a_grads, b_grads, strict=True):
        torch.testing.assert_close(x, y)
