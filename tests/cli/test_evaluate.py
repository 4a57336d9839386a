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
    given = ("--context", 16, "--stride", 4, "--tokens", 100, "--batch-size", 3)
    ended = spikeformers(
        "evaluate", "perplexity", causal, "--data", text, "--split", "train", *given, "--json"
    )
    said = ended.json
    assert (said["context"], said["stride"], said["tokens"], said["split"]) == (16, 4, 100, "train")


def test_the_table(spikeformers, causal, text):
    ended = spikeformers("evaluate", "perplexity", causal, "--data", text)
    assert ended.code == 0
    for said in ("bits per byte", "perplexity per token", "32 tokens, stride 16", "validation"):
        assert said in ended.out


def test_a_perplexity_per_word_beyond_all_words_is_left_out(
    spikeformers, causal, text, monkeypatch
):
    given = ("evaluate", "perplexity", causal, "--data", text, "--tokens", 200)
    found = spikeformers(*given, "--json").json["word_perplexity"]
    assert found > 100_000  # bytes, hardly trained
    assert "per word" not in spikeformers(*given).out
    monkeypatch.setattr("spikeformers.reporting.evaluation_tables.SENSIBLE", 2 * found)
    assert f"{found:,.2f}" in spikeformers(*given).out


def test_options_have_one_name_and_the_old_ones_still_work(spikeformers, causal, text):
    given = ("evaluate", "perplexity", causal, "--data", text, "--json")
    new, old = (spikeformers(*given, name, 100) for name in ("--tokens", "--max-tokens"))
    assert new.json == old.json
    assert new.json["tokens"] == 100
    equals = spikeformers(*given, "--max-tokens=100")
    assert equals.json == new.json
    for verb in ("perplexity", "agreement", "vision"):
        said = spikeformers("evaluate", verb, "--help").out
        assert "--max-tokens" not in said
        assert "--max-images" not in said


def test_a_masked_model(spikeformers, masked, text):
    ended = spikeformers("evaluate", "perplexity", masked, "--data", text, "--json")
    assert ended.json["kind"] == "masked"
    assert ended.json["perplexity"] is None
    assert ended.json["masked_perplexity"] == pytest.approx(math.exp(ended.json["masked_loss"]))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--context", 64), "at most 32 tokens"),
        (("--context", 16, "--stride", 16), "stride must lie between"),
        (("--split", "trian"), "Did you mean 'train'?"),
    ],
)
def test_what_does_not_fit_is_a_usage_error(spikeformers, causal, text, given, said):
    ended = spikeformers("evaluate", "perplexity", causal, "--data", text, *given)
    assert ended.code == 2
    assert said in ended.err
