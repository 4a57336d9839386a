"""Agreement against values worked out by hand, on bigram tables."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from spikeformers.data import TokenSplit
from spikeformers.errors import ConfigError, DataError
from spikeformers.evaluation import agreement


def split_of(*tokens: int) -> TokenSplit:
    result = TokenSplit("test", Path("none"), "<u2", len(tokens), 1, 1, 1)
    result.__dict__["tokens"] = np.array(tokens, dtype="<u2")
    return result


def model_of(table: Any, rows: list[list[float]], positions: int = 8) -> Any:
    model = table(torch.tensor(rows), positions)
    model.config.vocab_size = len(rows)
    return model


def test_by_hand(table: Any) -> None:
    # after token 0: reference 3/4, 1/4 and model 1/2, 1/2; after token 1 both say 1
    reference = model_of(table, [[math.log(3), 0.0], [0.0, 2.0]])
    model = model_of(table, [[0.0, 0.0], [0.0, 2.0]])
    report = agreement(model, reference, split_of(0, 1, 0, 1, 1), context=2, batch_size=1)
    kl = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert (report.tokens, report.context) == (5, 2)
    assert report.agreement == 1  # ties go to the lowest index
    assert report.kl == pytest.approx(2 / 5 * kl)
    assert report.cosine == pytest.approx(3 / 5)  # a flat row has no direction
    turned = model_of(table, [[0.0, 1.0], [0.0, 2.0]])
    report = agreement(turned, reference, split_of(0, 1, 0, 1, 1), context=2)
    assert report.agreement == pytest.approx(3 / 5)
    assert report.cosine == pytest.approx((3 - 2) / 5)
    assert report.logit_cosine == pytest.approx(3 / 5)  # (0, 1) and (ln 3, 0) are orthogonal
    assert report.hidden_cosine == 1  # both tables read the same one-hot rows


@torch.no_grad()
def test_hidden_states_are_what_the_head_reads() -> None:
    def model(seed: int, width: int = 8) -> Any:
        torch.manual_seed(seed)
        config = GPT2Config(vocab_size=20, n_embd=width, n_layer=1, n_head=2, n_positions=16)
        return GPT2LMHeadModel(config).eval()

    model_a, model_b, tokens = model(0), model(1), [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7]
    result = agreement(model_a, model_b, split_of(*tokens), context=7)
    ids = torch.tensor(tokens).view(2, 7)
    first, second = model_a(ids, output_hidden_states=True), model_b(ids, output_hidden_states=True)
    plain = F.cosine_similarity(first.logits, second.logits, dim=-1).mean()
    assert result.logit_cosine == pytest.approx(float(plain), abs=1e-6)
    hidden = F.cosine_similarity(first.hidden_states[-1], second.hidden_states[-1], dim=-1).mean()
    assert result.hidden_cosine == pytest.approx(float(hidden), abs=1e-6)
    assert agreement(model_a, model(2, 4), split_of(*tokens), context=7).hidden_cosine is None


def test_a_model_agrees_with_itself(setup: Any) -> None:
    model, _ = setup("wd")
    model.train()
    split = split_of(*range(40))
    report = agreement(model, model, split, context=16, batch_size=2)
    assert report.tokens == 40
    assert report.as_dict() == pytest.approx(
        {
            **{"tokens": 40, "context": 16, "agreement": 1.0, "kl": 0.0},
            **{"cosine": 1.0, "logit_cosine": 1.0, "hidden_cosine": 1.0},
        },
        abs=1e-6,
    )
    assert model.training
    seen: list[tuple[int, int]] = []
    agreement(
        model, model, split, context=16, max_tokens=20, batch_size=1,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert seen == [(16, 20), (20, 20)]


def test_what_cannot_be_compared(table: Any) -> None:
    second, three = model_of(table, [[0.0] * 2] * 2), model_of(table, [[0.0] * 3] * 3, positions=4)
    with pytest.raises(ConfigError, match="vocabulary of 2 and the reference one of 3"):
        agreement(second, three, split_of(0), context=2)
    with pytest.raises(ConfigError, match="the reference takes at most 4"):
        agreement(second, three, split_of(0), context=6)
    with pytest.raises(DataError, match="'test' is empty"):
        agreement(second, second, split_of(), context=2)
    with pytest.raises(ConfigError, match="must be positive"):
        agreement(second, second, split_of(0), context=2, batch_size=0)


def test_a_text_of_another_tokenizer_is_refused(table: Any) -> None:
    model = model_of(table, [[0.0, 0.0], [0.0, 2.0]])
    with pytest.raises(DataError, match="holds the token id 2, and the model's vocabulary is 2"):
        agreement(model, model, split_of(0, 1, 2), context=2)
