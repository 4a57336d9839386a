from __future__ import annotations

import math

import pytest

from spikeformers.data import load_corpus, tokenize_corpus
from spikeformers.evaluation import perplexity
from spikeformers.models import load_model


def test_json_is_the_report(spikeformers, causal, text):
    ended = spikeformers("evaluate", "perplexity", causal, "--data", text, "--json")
    model, tokenizer = load_model(causal)
    corpus = load_corpus(text)
    expected = perplexity(model, tokenizer, tokenize_corpus(corpus, tokenizer).split("validation"))
    assert ended.json == expected.as_dict() | {
        "model": str(causal), "data": str(text), "split": "validation", "sha256": corpus.digest
    }  # fmt: skip
    assert ended.json["bits_per_byte"] == pytest.approx(
        ended.json["nats_per_token"] / math.log(2) * ended.json["tokens"] / ended.json["bytes"]
    )


def test_options_reach_the_measurement(spikeformers, causal, text):
    arguments = ("--context", 16, "--stride", 4, "--tokens", 100, "--batch-size", 3)
    ended = spikeformers(
        "evaluate", "perplexity", causal, "--data", text, "--split", "train", *arguments, "--json"
    )
    result = ended.json
    assert (result["context"], result["stride"], result["tokens"], result["split"]) == (
        16,
        4,
        100,
        "train",
    )


def test_the_table(spikeformers, causal, text):
    ended = spikeformers("evaluate", "perplexity", causal, "--data", text)
    assert ended.code == 0
    for message in ("bits per byte", "perplexity per token", "32 tokens, stride 16", "validation"):
        assert message in ended.out


def test_a_perplexity_per_word_beyond_all_words_is_left_out(
    spikeformers, causal, text, monkeypatch
):
    arguments = ("evaluate", "perplexity", causal, "--data", text, "--tokens", 200)
    result = spikeformers(*arguments, "--json").json["word_perplexity"]
    assert result > 100_000  # bytes, hardly trained
    assert "per word" not in spikeformers(*arguments).out
    monkeypatch.setattr("spikeformers.reporting.evaluation_tables.SENSIBLE", 2 * result)
    assert f"{result:,.2f}" in spikeformers(*arguments).out


def test_options_have_one_name_and_the_old_ones_still_work(spikeformers, causal, text):
    arguments = ("evaluate", "perplexity", causal, "--data", text, "--json")
    new, old = (spikeformers(*arguments, name, 100) for name in ("--tokens", "--max-tokens"))
    assert new.json == old.json
    assert new.json["tokens"] == 100
    equals = spikeformers(*arguments, "--max-tokens=100")
    assert equals.json == new.json
    for verb in ("perplexity", "agreement", "vision"):
        output = spikeformers("evaluate", verb, "--help").out
        assert "--max-tokens" not in output
        assert "--max-images" not in output


def test_a_masked_model(spikeformers, masked, text):
    ended = spikeformers("evaluate", "perplexity", masked, "--data", text, "--json")
    assert ended.json["kind"] == "masked"
    assert ended.json["perplexity"] is None
    assert ended.json["masked_perplexity"] == pytest.approx(math.exp(ended.json["masked_loss"]))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--context", 64), "at most 32 tokens"),
        (("--context", 16, "--stride", 16), "stride must lie between"),
        (("--split", "trian"), "Did you mean 'train'?"),
    ],
)
def test_what_does_not_fit_is_a_usage_error(spikeformers, causal, text, given, message):
    ended = spikeformers("evaluate", "perplexity", causal, "--data", text, *given)
    assert ended.code == 2
    assert message in ended.err
