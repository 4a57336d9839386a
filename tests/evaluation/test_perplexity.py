from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from spikeformers.data import load_corpus, tokenize_corpus
from spikeformers.data.masking import mask_tokens
from spikeformers.errors import ConfigError, DataError
from spikeformers.evaluation import context_of, perplexity

Make = Callable[..., tuple[Any, Any]]
CAUSAL: list[dict[str, Any]] = [
    {},
    {"neuron": "lif", "steps": 3},
    {"position": "learned"},
    {"twin": "learned"},
    {"twin": "rotary"},
]


def stream_of(tokenizer: Any, documents: list[str]) -> torch.Tensor:
    end = tokenizer.eos_token_id
    ids = [end]
    for text in documents:
        ids += [*text.encode(), end]
    return torch.tensor(ids)


def naive(model: Any, stream: torch.Tensor, context: int) -> float:
    """Nats of every token but the first, each from a forward pass of its own."""
    total = 0.0
    for i in range(1, len(stream)):
        start = max(0, i + 1 - context)
        with torch.no_grad():
            logits = model(input_ids=stream[None, start : i + 1]).logits
        total -= float(logits[0, i - start - 1].double().log_softmax(-1)[stream[i]])
    return total


def test_a_uniform_model_has_the_perplexity_of_its_vocabulary(
    setup: Make, table: Any, documents: list[str]
) -> None:
    tokenizer = setup()[1]
    vocabulary = len(tokenizer)
    report = perplexity(table(torch.zeros(vocabulary, vocabulary)), tokenizer, documents)
    size = sum(len(text.encode()) for text in documents)
    words = sum(len(text.split()) for text in documents)
    assert (report.kind, report.context, report.stride) == ("causal", 8, 4)
    assert (report.tokens, report.bytes, report.words) == (size + 3, size, words)
    assert report.nats_per_token == pytest.approx(math.log(vocabulary))
    assert report.perplexity == pytest.approx(vocabulary)
    assert report.bits_per_byte == pytest.approx(math.log2(vocabulary) * (size + 3) / size)
    assert report.word_perplexity == pytest.approx(vocabulary ** ((size + 3) / words))
    assert report.masked_loss is None


@pytest.mark.parametrize("stride", [1, 3, 4, 7])
def test_known_probabilities(setup: Make, table: Any, stride: int) -> None:
    tokenizer = setup()[1]
    end, a, b = tokenizer.eos_token_id, ord("a"), ord("b")
    p = torch.full((len(tokenizer), len(tokenizer)), 1e-9)
    p[end, a], p[a, b], p[b, a], p[b, end] = 0.5, 0.25, 0.125, 0.0625
    report = perplexity(table(p.log()), tokenizer, ["abab", "ab"], stride=stride)
    # END a b a b END a b END, each row divided by its sum
    norm = p.sum(-1)
    bits = [1, 2, 3, 2, 4, 1, 2, 4]
    rows = [end, a, b, a, b, end, a, b]
    expected = sum(bits) * math.log(2) + sum(math.log(norm[row]) for row in rows)
    assert report.tokens == 8
    assert report.nats_per_token == pytest.approx(expected / 8, rel=1e-5)
    assert report.bits_per_byte == pytest.approx(expected / math.log(2) / 6, rel=1e-5)


@pytest.mark.parametrize("options", CAUSAL)
def test_stride_one_is_the_naive_computation(
    setup: Make, documents: list[str], options: dict[str, Any]
) -> None:
    model, tokenizer = setup("wd", **options)
    stream = stream_of(tokenizer, documents)
    report = perplexity(model, tokenizer, documents, context=12, stride=1)
    assert report.tokens == len(stream) - 1
    assert report.nats_per_token == pytest.approx(
        naive(model, stream, 12) / (len(stream) - 1), rel=1e-4
    )


def test_a_text_inside_one_window_is_one_forward_pass(setup: Make) -> None:
    model, tokenizer = setup()
    stream = stream_of(tokenizer, ["short text"])
    with torch.no_grad():
        logits = model(input_ids=stream[None]).logits[0]
    expected = F.cross_entropy(logits[:-1].double(), stream[1:])
    report = perplexity(model, tokenizer, ["short text"])
    assert report.context == 16
    assert report.nats_per_token == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("options", CAUSAL)
def test_no_membrane_leaks_from_batch_to_batch(
    setup: Make, documents: list[str], options: dict[str, Any]
) -> None:
    model, tokenizer = setup("wd", **options)
    result = {
        size: perplexity(model, tokenizer, documents, stride=5, batch_size=size).nats_per_token
        for size in (1, 3, 64)
    }
    assert result[3] == pytest.approx(result[1], rel=1e-6)
    assert result[64] == pytest.approx(result[1], rel=1e-6)
    again = perplexity(model, tokenizer, documents, stride=5, batch_size=3)
    assert again.nats_per_token == result[3]


def test_longer_context_is_used(setup: Make, documents: list[str]) -> None:
    model, tokenizer = setup()
    short = perplexity(model, tokenizer, documents, context=4, stride=1)
    long = perplexity(model, tokenizer, documents, context=16, stride=1)
    assert short.nats_per_token != pytest.approx(long.nats_per_token, rel=1e-4)


def test_a_token_split_gives_what_its_documents_give(setup: Make, tmp_path: Path) -> None:
    model, tokenizer = setup()
    folder = tmp_path / "text"
    folder.mkdir()
    for number in range(8):
        (folder / f"{number}.txt").write_text(f"Document {number} says ö and {number * 37}.")
    corpus = load_corpus(str(folder))
    split = tokenize_corpus(corpus, tokenizer, tmp_path / "cache").split("train")
    documents = list(corpus.documents("train"))
    whole = perplexity(model, tokenizer, split)
    assert whole == perplexity(model, tokenizer, documents)
    assert (whole.tokens, whole.bytes, whole.words) == (
        split.num_tokens, split.num_bytes, split.num_words,
    )  # fmt: skip
    part = perplexity(model, tokenizer, split, max_tokens=30)
    assert part == perplexity(model, tokenizer, documents, max_tokens=30)
    assert part.tokens == 30


def test_the_trained_context_is_the_default(setup: Make, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model, _ = setup()
    assert context_of(model) == 16
    model.save_pretrained(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"config": {"context": 12}}))
    assert context_of(AutoModelForCausalLM.from_pretrained(tmp_path)) == 12
    (tmp_path / "run.json").write_text(json.dumps({"config": {"context": 99}}))
    assert context_of(AutoModelForCausalLM.from_pretrained(tmp_path)) == 16


@pytest.mark.parametrize("twin", [None, "learned", "rotary"])
def test_masked_models_report_no_bits_per_byte(
    setup: Make, documents: list[str], twin: str | None
) -> None:
    model, tokenizer = setup("we", twin)
    report = perplexity(model, tokenizer, documents, mask_seed=7)
    assert report.kind == "masked"
    assert (report.mask_seed, report.mask_probability) == (7, 0.15)
    for figure in ("nats_per_token", "perplexity", "word_perplexity", "bits_per_byte"):
        assert getattr(report, figure) is None
    assert report.masked_loss is not None
    assert report.masked_perplexity == pytest.approx(math.exp(report.masked_loss))
    for size in (1, 64):
        other = perplexity(model, tokenizer, documents, mask_seed=7, batch_size=size)
        assert other.masked_loss == pytest.approx(report.masked_loss, rel=1e-6)
    assert perplexity(model, tokenizer, documents, mask_seed=8).masked_loss != report.masked_loss


def test_masked_loss_and_accuracy_by_hand(setup: Make, masked_table: Any) -> None:
    tokenizer = setup("we")[1]
    n = len(tokenizer)
    logits = torch.zeros(n, n)
    logits[:, ord("a")] = math.log(3)  # whatever it sees, "a" with 3 / (n + 2), others 1 / (n + 2)
    report = perplexity(
        masked_table(logits), tokenizer, ["abaabbab" * 4], context=8, mask_probability=0.4
    )
    ids = np.array([[*b"abaabbab"]] * 4)
    labels = mask_tokens(
        ids, seed=0, epoch=0, starts=np.arange(0, 32, 8), mask_token_id=tokenizer.mask_token_id,
        vocab_size=n, special_ids=tokenizer.all_special_ids, probability=0.4,
    )[1]  # fmt: skip
    a, b = int((labels == ord("a")).sum()), int((labels == ord("b")).sum())
    assert report.tokens == a + b > 0  # the lone separator in the last window is never masked
    assert report.masked_accuracy == a / (a + b)
    expected = math.log(n + 2) - a / (a + b) * math.log(3)
    assert report.masked_loss == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", ["wd", "we"])
def test_progress_and_mode(setup: Make, documents: list[str], kind: str) -> None:
    model, tokenizer = setup(kind)
    model.train()
    seen: list[tuple[int, int]] = []
    perplexity(model, tokenizer, documents, batch_size=2, progress=lambda *at: seen.append(at))
    assert model.training
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]


def test_json(setup: Make, table: Any, documents: list[str]) -> None:
    tokenizer = setup()[1]
    n = len(tokenizer)
    bad = torch.zeros(n, n)
    bad[:, 0] = 1e4  # every token is impossible: e^10000 is not a float
    report = perplexity(table(bad), tokenizer, documents)
    assert report.perplexity == math.inf
    result = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert result["perplexity"] is None
    assert result["nats_per_token"] == pytest.approx(1e4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": 17}, "at most 16"),
        ({"context": 8, "stride": 8}, "stride"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_bad_requests(
    setup: Make, documents: list[str], options: dict[str, int], message: str
) -> None:
    model, tokenizer = setup()
    with pytest.raises(ConfigError, match=message):
        perplexity(model, tokenizer, documents, **options)


def test_a_text_of_another_tokenizer_is_refused(setup: Make) -> None:
    model, tokenizer = setup()
    tokenizer.add_tokens(["<new>"])
    message = f"holds the token id {len(tokenizer) - 1}, and the model's vocabulary is"
    with pytest.raises(DataError, match=message):
        perplexity(model, tokenizer, ["some <new> words"])
