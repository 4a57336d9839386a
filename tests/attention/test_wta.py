"""Winner-take-all: who wins, what flows back, and that gathering equals the definition."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from spikeformers.attention import WTA
from spikeformers.attention.wta import _Compete, one_hot, sparsemax, winners_of
from spikeformers.errors import ConfigError

seeds = st.integers(0, 2**31 - 1)
FAMILY: dict[str, dict[str, Any]] = {
    "hard": {"competition": "hard"},
    "top-2": {"competition": "top_k", "winners": 2},
    "top-3": {"competition": "top_k", "winners": 3},
    "top-3-mean": {"competition": "top_k", "winners": 3, "winner_weight": "mean"},
    "sparsemax": {"competition": "sparsemax"},
}
every_wta = pytest.mark.parametrize("kind", FAMILY)


def spikes(seed: int, *shape: int, levels: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, levels + 1, shape, generator=generator).float() / levels


def qkv(seed: int, tokens: int = 6, heads: int = 2, width: int = 4) -> tuple[Tensor, ...]:
    return tuple(spikes(seed + i, 2, 3, heads, tokens, width) for i in range(3))


def causal(tokens: int) -> Tensor:
    return torch.ones(tokens, tokens, dtype=torch.bool).tril()[None, None]


def reference(scores: np.ndarray, allowed: np.ndarray, winners: int) -> np.ndarray:
    """Weights by sorting each row's allowed keys by (-score, index)."""
    out = np.zeros(scores.shape)
    for row in np.ndindex(*scores.shape[:-1]):
        keys = [j for j in range(scores.shape[-1]) if allowed[row][j]]
        for j in sorted(keys, key=lambda j: (-scores[row][j], j))[:winners]:
            out[(*row, j)] = 1
    return out


# --- who wins -----------------------------------------------------------------------------------


@given(seed=seeds, winners=st.integers(1, 5), keys=st.integers(1, 7), spread=st.integers(0, 3))
def test_lowest_index_wins_ties(seed: int, winners: int, keys: int, spread: int) -> None:
    """Few distinct integer scores, many ties, random masks; also rows that allow nothing."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, spread + 1, (2, 3, keys))
    allowed = rng.random((2, 3, keys)) < 0.7
    given_scores = torch.tensor(scores).float().masked_fill(~torch.tensor(allowed), float("-inf"))
    index, exists = winners_of(given_scores, winners)
    weights = one_hot(index, exists, keys).numpy()
    np.testing.assert_array_equal(weights, reference(scores, allowed, winners))
    best = np.where(allowed, scores, -1)
    for row in np.ndindex(2, 3):  # best first
        order = [best[row][j] for j, e in zip(index[row], exists[row], strict=True) if e]
        assert order == sorted(order, reverse=True)


@given(seed=seeds, levels=st.sampled_from([1, 2, 4, 8]))
def test_hard_winner_is_the_first_argmax_of_the_counts(seed: int, levels: int) -> None:
    q, k = (spikes(seed + i, 1, 2, 2, 7, 5, levels=levels) for i in range(2))
    counts = torch.einsum("sbhtk,sbhjk->sbhtj", q * levels, k * levels).round().long().numpy()
    allowed = np.broadcast_to(causal(7).numpy(), counts.shape)
    with torch.no_grad():
        for winners in (1, 3):
            kind = "hard" if winners == 1 else "top_k"
            got = WTA(0.37, kind, winners).weights(q, k, causal(7), None).numpy()
            np.testing.assert_array_equal(got, reference(counts, allowed, winners))


@pytest.mark.parametrize("levels", [3, 5, 6, 7])
def test_ties_hold_where_levels_are_no_power_of_two(levels: int) -> None:
    """1/3 is not exact in binary; equal counts have to tie all the same."""
    q, k = (spikes(i, 1, 8, 2, 32, 16, levels=levels) for i in range(2))
    counts = torch.einsum("sbhtk,sbhjk->sbhtj", q * levels, k * levels).round().long()
    hard = WTA(0.25, "hard")
    hard.score_unit = 1 / levels**2
    with torch.no_grad():
        got = hard.weights(q, k, causal(32), None).argmax(-1)
        numbered = torch.arange(32.0).view(1, 1, 1, 32, 1).expand(1, 8, 2, 32, 16).contiguous()
        gathered = hard(q, k, numbered, causal(32))[..., 0].long()
    expected = counts.masked_fill(~causal(32), -1).argmax(-1)
    assert (got != expected).sum() == 0
    assert (gathered != expected).sum() == 0


@every_wta
@given(seed=seeds)
def test_future_tokens_never_change_the_past(kind: str, seed: int) -> None:
    q, k, v = qkv(seed)
    core = WTA(0.5, **FAMILY[kind])
    now = seed % 5
    order = torch.arange(6)
    order[now + 1 :] = now + 1 + torch.randperm(5 - now)
    other_k, other_v = k[..., order, :], v[..., order, :].clone()
    other_v[..., now + 1 :, :] += 7
    with torch.no_grad():
        y = core(q, k, v, causal(6))
        z = core(q, other_k, other_v, causal(6))
        again = core(
            q[..., : now + 1, :], k[..., : now + 1, :], v[..., : now + 1, :], causal(now + 1)
        )
    assert torch.equal(z[..., : now + 1, :], y[..., : now + 1, :])
    torch.testing.assert_close(again, y[..., : now + 1, :], rtol=0, atol=1e-6)


@given(seed=seeds, winners=st.integers(1, 8))
def test_rows_hold_min_of_k_and_allowed_ones(seed: int, winners: int) -> None:
    q, k, _ = qkv(seed)
    with torch.no_grad():
        w = WTA(0.5, "top_k", winners).weights(q, k, causal(6), None)
        mean = WTA(0.5, "top_k", winners, winner_weight="mean").weights(q, k, causal(6), None)
    assert set(w.unique().tolist()) <= {0.0, 1.0}
    expected = torch.arange(1, 7).clamp_max(winners).float()
    assert torch.equal(w.sum(-1), expected.expand(2, 3, 2, 6))
    assert (w.triu(1) == 0).all()
    torch.testing.assert_close(mean, w / winners)


@given(seed=seeds)
def test_hard_rows_are_one_hot_and_top_one_is_hard(seed: int) -> None:
    q, k, v = qkv(seed)
    hard, top = WTA(0.5, "hard"), WTA(0.5, "top_k", 1)
    with torch.no_grad():
        w = hard.weights(q, k, causal(6), None)
        assert set(w.unique().tolist()) == {0.0, 1.0}
        assert (w.sum(-1) == 1).all()
        assert (w[..., 0, 0] == 1).all()  # row 0 attends to itself
        assert torch.equal(top.weights(q, k, causal(6), None), w)
        assert torch.equal(top(q, k, v, causal(6)), hard(q, k, v, causal(6)))
    grads = []
    for core in (hard, top):
        inputs = [x.clone().requires_grad_() for x in (q, k, v)]
        core(*inputs, causal(6)).square().sum().backward()
        grads.append([x.grad for x in inputs])
    for a, b in zip(*grads, strict=True):
        assert torch.equal(a, b)


@given(seed=seeds)
def test_softmax_tends_to_hard_where_the_argmax_is_unique(seed: int) -> None:
    q, k, _ = qkv(seed)
    with torch.no_grad():
        core = WTA(0.5, "hard")
        scores = core.scores(q, k, None).masked_fill(~causal(6), float("-inf"))
        best = scores.topk(2, -1).values
        unique = best[..., 0] > best[..., 1]
        assert unique[..., 0].all()  # row 0 has one key
        hard = core.weights(q, k, causal(6), None)
        far = (torch.softmax(scores, -1) - hard).abs().amax(-1)[unique].max()
        near = (torch.softmax(scores / 1e-3, -1) - hard).abs().amax(-1)[unique].max()
    # Distinct scores differ by at least 1/32 here, which is 31 temperatures.
    assert near < 1e-11 < far


@given(seed=seeds)
def test_bias_decides_among_equal_scores(seed: int) -> None:
    bias = torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(seed))
    q = k = torch.zeros(2, 3, 2, 6, 4)
    with torch.no_grad():
        w = WTA(0.5, "hard").weights(q, k, causal(6), bias)
    expected = bias.masked_fill(~causal(6)[0], float("-inf")).argmax(-1)
    assert torch.equal(w.argmax(-1), expected.expand(2, 3, 2, 6))


# --- sparsemax ----------------------------------------------------------------------------------


def project(z: np.ndarray) -> np.ndarray:
    """Euclidean projection on the simplex by trying every support."""
    best, distance = None, np.inf
    for size in range(1, len(z) + 1):
        for support in map(list, itertools.combinations(range(len(z)), size)):
            p = np.zeros(len(z))
            p[support] = z[support] + (1 - z[support].sum()) / size
            if (p >= 0).all() and ((p - z) ** 2).sum() < distance:
                best, distance = p, ((p - z) ** 2).sum()
    assert best is not None
    return best


@given(z=st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=6))
def test_sparsemax_is_the_projection_on_the_simplex(z: list[float]) -> None:
    scores = torch.tensor(z, dtype=torch.float64)
    got = sparsemax(torch.cat([scores, torch.tensor([float("-inf")] * 2).double()])[None])[0]
    assert got[len(z) :].tolist() == [0, 0]
    assert got.sum().item() == pytest.approx(1)
    np.testing.assert_allclose(got[: len(z)].numpy(), project(scores.numpy()), atol=1e-9)


def test_sparsemax_by_hand_and_its_gradient() -> None:
    z = torch.tensor([[0.5, 0.3, -2.0]], dtype=torch.float64, requires_grad=True)
    # Support {0, 1}: tau = (0.8 - 1) / 2 = -0.1.
    p = sparsemax(z)
    torch.testing.assert_close(p, torch.tensor([[0.6, 0.4, 0.0]], dtype=torch.float64))
    p[0, 0].backward()
    torch.testing.assert_close(z.grad, torch.tensor([[0.5, -0.5, 0.0]], dtype=torch.float64))


# --- the surrogate: gathering equals hard - p.detach() + p ---------------------------------------


def masks(name: str, tokens: int, keys: int) -> Tensor:
    allowed = torch.ones(3, 1, tokens, keys, dtype=torch.bool)
    if name in ("causal", "left-padded"):
        allowed = allowed.tril(keys - tokens)
    if name == "left-padded":
        allowed[1, ..., :2] = False  # queries 0 and 1 of this sequence see no key
    if name == "right-padded":
        allowed[2, ..., -2:] = False
    return allowed


@pytest.mark.parametrize("mask", ["none", "causal", "left-padded", "right-padded"])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize("kind", ["hard", "top-2", "top-3", "top-3-mean"])
def test_compete_equals_autograd_through_its_definition(
    kind: str, temperature: float, with_bias: bool, mask: str
) -> None:
    """In float64, for q, k, v, the bias and a learned scale of each head."""
    core = WTA(0.4, temperature=temperature, heads=2, learn_scale=True, **FAMILY[kind]).double()
    torch.manual_seed(5)
    with torch.no_grad():
        core.log_scale[1] += 0.5
    q, k, v = (x.double().requires_grad_() for x in qkv(11, 5))
    bias = torch.randn(2, 5, 5).double().requires_grad_() if with_bias else None
    allowed = masks(mask, 5, 5)
    inputs = [x for x in (q, k, v, bias, core.log_scale) if x is not None]
    upstream = torch.randn(q.shape, dtype=torch.float64)

    expected = torch.matmul(core.weights(q, k, allowed, bias), v)
    expected_grads = torch.autograd.grad(expected, inputs, upstream)
    got = _Compete.apply(
        q, k, v, bias, allowed, core.scale(), temperature, core.winners, core.weight
    )
    got_grads = torch.autograd.grad(got, inputs, upstream)
    torch.testing.assert_close(got, expected)
    for a, b in zip(got_grads, expected_grads, strict=True):
        assert b.abs().max() > 1e-3
        torch.testing.assert_close(a, b)


def test_surrogate_by_hand() -> None:
    """One query, two keys, K = 1: dy/dq = (v - p.v) p k s, v itself gets the hard weights."""
    q = torch.tensor([[2.0]]).view(1, 1, 1, 1, 1).requires_grad_()
    k = torch.tensor([1.0, 3.0]).view(1, 1, 1, 2, 1).requires_grad_()
    v = torch.tensor([5.0, 1.0]).view(1, 1, 1, 2, 1).requires_grad_()
    y = WTA(0.5, "hard", temperature=2.0)(q, k, v, torch.ones(1, 1, 1, 2, dtype=torch.bool))
    assert y.item() == 1.0  # scores 1 and 3
    y.backward()
    # p = softmax([0.5, 1.5]); dy/dscore_j = p_j (v_j - p.v) / temperature
    p0 = 1 / (1 + np.e)
    p1 = 1 - p0
    mean = 5 * p0 + p1
    g = [p0 * (5 - mean) / 2, p1 * (1 - mean) / 2]
    assert v.grad.flatten().tolist() == [0, 1]
    assert q.grad.item() == pytest.approx(0.5 * (g[0] * 1 + g[1] * 3), rel=1e-5)
    assert k.grad.flatten().tolist() == pytest.approx([0.5 * 2 * g[0], 0.5 * 2 * g[1]], rel=1e-5)


@every_wta
@pytest.mark.parametrize("mask", ["none", "causal", "left-padded", "right-padded"])
def test_forward_is_weights_times_v(kind: str, mask: str) -> None:
    core = WTA(0.4, **FAMILY[kind])
    q, k, v = qkv(23, 5)
    bias = torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = torch.matmul(core.weights(q, k, masks(mask, 5, 5), bias), v)
        got = core(q, k, v, masks(mask, 5, 5), bias)
    assert got.abs().sum() > 0
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("kind", ["hard", "top-3"])
def test_half_precision_names_the_same_winners(kind: str) -> None:
    """Counts are exact in bfloat16 and their scores are not: nothing may tie that did not."""
    core = WTA(0.125, **FAMILY[kind])
    q, k, v = qkv(3, 24, 2, 64)
    with torch.no_grad():
        exact = core.weights(q, k, causal(24), None)
        got = core(q.bfloat16(), k.bfloat16(), v.bfloat16(), causal(24))
        weights = core.weights(q.bfloat16(), k.bfloat16(), causal(24), None)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, torch.matmul(exact, v).bfloat16())
    assert torch.equal(weights.float(), exact)


@every_wta
def test_a_query_without_keys_gets_zeros_and_finite_gradients(kind: str) -> None:
    core = WTA(0.4, **FAMILY[kind])
    q, k, v = (x.requires_grad_() for x in qkv(31, 5))
    bias = torch.zeros(2, 5, 5, requires_grad=True)
    y = core(q, k, v, masks("left-padded", 5, 5), bias)
    assert (y[:, 1, :, :2] == 0).all()
    assert (y[:, 1, :, 2:] != 0).any()
    y.square().sum().backward()
    for x in (q, k, v, bias):
        assert torch.isfinite(x.grad).all()
        assert x.grad.abs().sum() > 0
    assert (q.grad[:, 1, :, :2] == 0).all()
    assert (k.grad[:, 1, :, :2] == 0).all()
    assert (v.grad[:, 1, :, :2] == 0).all()


@every_wta
def test_gradient_reaches_q_and_k(kind: str) -> None:
    core = WTA(0.4, **FAMILY[kind])
    q, k, v = (x.requires_grad_() for x in qkv(41))
    core(q, k, v, causal(6)).square().sum().backward()
    assert (q.grad.abs().sum((0, 1, 4)) > 0)[:, 1:].all()  # every head and query with a choice
    assert (k.grad.abs().sum((0, 1, 4)) > 0).all()


@every_wta
def test_facts_that_a_core_states(kind: str) -> None:
    core = WTA(0.4, **FAMILY[kind])
    q, k, _ = qkv(51)
    with torch.no_grad():
        w = core.weights(q, k, causal(6), None)
    binary = set(w.unique().tolist()) <= {0.0, 1.0}
    assert core.weights_are_binary == binary
    if core.reads_per_query is not None:
        assert (w != 0).sum(-1).max() == core.reads_per_query


def test_bad_choices() -> None:
    with pytest.raises(ConfigError, match=r"unknown wta 'topk'.*Did you mean 'top_k'\?"):
        WTA(1.0, "topk")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"not 0 and 1\.0"):
        WTA(1.0, "top_k", winners=0)
    with pytest.raises(ConfigError, match=r"not 1 and 0\.0"):
        WTA(1.0, "hard", temperature=0.0)
