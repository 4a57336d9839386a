"""The engine's sampler beside the logit processors of Transformers, and without torch."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from spikeformers.engine.sampling import adjusted, candidates, make_sampler
from spikeformers.errors import UsageError

CHOICES: list[dict[str, Any]] = [
    {"temperature": 1.0},
    {"temperature": 0.8, "top_k": 5},
    {"temperature": 1.3, "top_p": 0.7},
    {"temperature": 0.5, "top_k": 20, "top_p": 0.9},
    {"temperature": 2.0, "top_k": 100_000, "top_p": 0.999},
    {"temperature": 0.7, "top_p": 1e-9},
    {"temperature": 1.2, "min_p": 0.1},
    {"temperature": 0.9, "top_k": 30, "top_p": 0.95, "min_p": 0.05},
    {"temperature": 1.0, "min_p": 1.0},
]


def of_transformers(
    logits: Any, temperature: float, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> np.ndarray:
    """Probabilities ``[V]`` by the processors that ``generate`` uses, in float64."""
    ids, scores = torch.zeros(1, 1, dtype=torch.long), torch.from_numpy(logits).double()[None]
    scores = TemperatureLogitsWarper(temperature)(ids, scores)
    if top_k:
        scores = TopKLogitsWarper(top_k)(ids, scores)
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(ids, scores)
    if min_p:
        scores = MinPLogitsWarper(min_p)(ids, scores)
    probabilities: np.ndarray = scores.softmax(-1)[0].numpy()
    return probabilities


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("vocabulary", [1, 61, 5000])
def test_the_same_tokens_may_be_drawn_as_by_transformers(
    vocabulary: int, choice: dict[str, Any]
) -> None:
    for seed in range(5):
        logits = 3 * np.random.default_rng(seed).standard_normal(vocabulary).astype(np.float32)
        expected = of_transformers(logits, **choice)
        tokens, chances = candidates(logits, **choice)
        assert tokens.tolist() == np.flatnonzero(expected).tolist()
        np.testing.assert_allclose(chances / chances.sum(), expected[tokens], rtol=1e-9)


def test_a_flat_distribution_keeps_more_tokens_than_are_sorted_first() -> None:
    logits = np.linspace(0, 1e-3, 5000, dtype=np.float32)
    tokens, _ = candidates(logits, 1.0, 0, 0.9)
    assert tokens.tolist() == np.flatnonzero(of_transformers(logits, 1.0, top_p=0.9)).tolist()
    assert 4400 < len(tokens) < 4600


def test_tokens_that_tie_with_the_last_of_top_k_stay() -> None:
    logits = np.array([1.0, 3.0, 1.0, 0.0, 1.0], np.float32)
    tokens, _ = candidates(logits, 1.0, top_k=2)
    assert tokens.tolist() == [0, 1, 2, 4]


def test_draws_follow_their_probabilities_and_repeat_with_their_seed() -> None:
    logits = np.log(np.array([0.5, 0.2, 0.2, 0.06, 0.04], np.float32))
    draw, again, other = (make_sampler(1.0, 0, 0.85, seed) for seed in (3, 3, 4))
    tokens = [draw(logits) for _ in range(6000)]
    assert tokens == [again(logits) for _ in range(6000)]
    assert tokens != [other(logits) for _ in range(6000)]
    shares = np.bincount(tokens, minlength=5) / 6000  # four standard errors are 0.026
    np.testing.assert_allclose(shares, np.array([5, 2, 2, 0, 0]) / 9, atol=0.026)
    assert shares[3:].tolist() == [0, 0]


def test_at_temperature_0_the_lowest_of_the_likeliest_wins() -> None:
    assert make_sampler(0, 5, 0.5, 0)(np.array([1.0, 7.0, 7.0], np.float32)) == 1


@pytest.mark.parametrize(
    ("choice", "part"),
    [
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_choices_that_there_are_not_are_refused(choice: dict[str, Any], part: str) -> None:
    given = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": 0} | choice
    with pytest.raises(UsageError, match=part):
        make_sampler(**given)


def test_drawing_imports_no_torch() -> None:
    code = (
        "import sys, numpy as np, spikeformers.engine\n"
        "from spikeformers.engine.sampling import make_sampler\n"
        "make_sampler(0.8, 5, 0.9, 0)(np.zeros(61, np.float32))\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_logits_are_biased_and_penalised_as_openai_says() -> None:
    logits = np.arange(6, dtype=np.float32)
    assert adjusted(logits, {}, {1: 3}) is logits
    changed = adjusted(logits, {0: 2.5, 5: -100.0}, {1: 3, 2: 1}, 0.5, 0.25)
    assert changed.tolist() == [2.5, 1 - 0.75 - 0.5, 2 - 0.25 - 0.5, 3, 4, -95]
    assert adjusted(logits, {}, {4: 2}, frequency_penalty=-1.0)[4] == 6
    assert logits.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("min_p", [-0.1, 1.1, float("nan")])
def test_a_min_p_that_is_no_probability_is_refused(min_p: float) -> None:
    with pytest.raises(UsageError, match="min_p is"):
        make_sampler(1.0, 0, 1.0, 0, min_p)
