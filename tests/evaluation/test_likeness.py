"""Likeness of two models: with itself, with a known other, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from spikeformers.errors import ConfigError, DataError
from spikeformers.evaluation import likeness_of


def model(seed: int, vocab_size: int = 20) -> Any:
    torch.manual_seed(seed)
    config = GPT2Config(vocab_size=vocab_size, n_embd=8, n_layer=1, n_head=2, n_positions=16)
    return GPT2LMHeadModel(config).eval()


IDS = [torch.randint(0, 20, (2, 7), generator=torch.Generator().manual_seed(0)) for _ in range(2)]


def test_a_model_agrees_with_itself() -> None:
    one = model(0)
    found = likeness_of(one, one, IDS)
    assert (found.tokens, found.agreement) == (28, 1.0)
    assert found.logit_cosine == pytest.approx(1)
    assert found.hidden_cosine == pytest.approx(1)


@torch.no_grad()
def test_against_its_definition() -> None:
    one, two = model(0), model(1)
    found = likeness_of(one, two, IDS)
    ids = torch.cat(IDS)
    first, second = one(ids, output_hidden_states=True), two(ids, output_hidden_states=True)
    same = (first.logits.argmax(-1) == second.logits.argmax(-1)).double().mean()
    assert found.agreement == pytest.approx(float(same))
    cosine = F.cosine_similarity(first.logits, second.logits, dim=-1).mean()
    assert found.logit_cosine == pytest.approx(float(cosine), abs=1e-6)
    hidden = F.cosine_similarity(first.hidden_states[-1], second.hidden_states[-1], dim=-1).mean()
    assert found.hidden_cosine == pytest.approx(float(hidden), abs=1e-6)


def test_what_cannot_be_compared() -> None:
    with pytest.raises(ConfigError, match="vocabularies of 20 and 21 tokens"):
        likeness_of(model(0), model(0, 21), IDS)
    with pytest.raises(DataError, match="no token to compare on"):
        likeness_of(model(0), model(1), [])
