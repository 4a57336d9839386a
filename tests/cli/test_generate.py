from __future__ import annotations

import io

import pytest
import torch

from spikeformers.models import load_model

PROMPT = "the spike "


def test_greedy_text_is_that_of_transformers(spikeformers, causal):
    ended = spikeformers(
        "generate", causal, "--prompt", PROMPT, "--temperature", 0, "--max-new-tokens", 12, "--json"
    )
    model, tokenizer = load_model(causal)
    ids = torch.tensor([tokenizer(PROMPT)["input_ids"]])
    written = model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    assert ended.json["text"] == tokenizer.decode(written, skip_special_tokens=True)
    assert ended.json["tokens"] == len(written)
    assert ended.json["prompt_tokens"] == len(PROMPT)
    assert ended.json["tokens_per_second"] > 0


def test_the_seed_decides_and_streaming_does_not(spikeformers, causal):
    arguments = (
        "generate",
        causal,
        "--prompt",
        PROMPT,
        "--max-new-tokens",
        15,
        "--temperature",
        1.5,
    )
    first = spikeformers(*arguments, "--seed", 1)
    assert first.code == 0
    assert first.out == spikeformers(*arguments, "--seed", 1, "--no-stream").out
    assert first.out == spikeformers(*arguments, "--seed", 1, "--json").json["text"] + "\n"
    assert first.out != spikeformers(*arguments, "--seed", 2).out
    assert "tokens/s" in first.err


def test_top_k_of_one_is_greedy(spikeformers, causal):
    arguments = ("generate", causal, "--prompt", PROMPT, "--max-new-tokens", 10)
    greedy = spikeformers(*arguments, "--temperature", 0).out
    assert spikeformers(*arguments, "--temperature", 2, "--top-k", 1).out == greedy
    nucleus = spikeformers(*arguments, "--temperature", 2, "--top-k", 0, "--top-p", 1e-6)
    assert nucleus.out == greedy


def test_a_stop_string_ends_the_text(spikeformers, causal):
    arguments = ("generate", causal, "--prompt", PROMPT, "--max-new-tokens", 20, "--temperature", 2)
    whole = spikeformers(*arguments, "--json").json
    stop = whole["text"][3:5]
    cut = spikeformers(*arguments, "--json", "--stop", stop).json
    assert cut["finish_reason"] == "stop"
    assert cut["text"] == whole["text"][: whole["text"].index(stop)]
    assert cut["tokens"] < whole["tokens"]


def test_it_ends_where_the_context_does(spikeformers, causal):
    ended = spikeformers(
        "generate", causal, "--prompt", "x" * 30, "--max-new-tokens", 9, "--temperature", 0,
        "--json",
    )  # fmt: skip
    assert (ended.json["tokens"], ended.json["finish_reason"]) == (2, "context")
    ended = spikeformers("generate", causal, "--prompt", "x" * 30, "--temperature", 0)
    assert "the context of 32 tokens is full" in ended.err


def test_a_prompt_longer_than_the_context(spikeformers, causal):
    ended = spikeformers("generate", causal, "--prompt", "x" * 32)
    assert ended.code == 2
    assert ended.out == ""
    assert "the prompt is longer than the context: it has 32 tokens, and the model takes 32" in (
        ended.err
    )


def test_a_prompt_from_standard_input(spikeformers, causal, monkeypatch):
    arguments = ("--temperature", 0, "--max-new-tokens", 5, "--json")
    result = spikeformers("generate", causal, "--prompt", PROMPT, *arguments).json
    monkeypatch.setattr("sys.stdin", io.StringIO(PROMPT))
    read = spikeformers("generate", causal, "--prompt", "-", *arguments).json
    assert (read["prompt"], read["text"]) == (PROMPT, result["text"])


def test_an_empty_prompt_begins_a_document(spikeformers, causal):
    ended = spikeformers("generate", causal, "--prompt", "", "--max-new-tokens", 3, "--json")
    assert ended.json["prompt_tokens"] == 1


def test_the_dense_twin_writes_too(spikeformers, control):
    ended = spikeformers("generate", control, "--prompt", PROMPT, "--max-new-tokens", 5, "--json")
    assert ended.code == 0
    assert 1 <= ended.json["tokens"] <= 5


def test_a_masked_model_does_not_write(spikeformers, masked):
    ended = spikeformers("generate", masked, "--prompt", PROMPT)
    assert ended.code == 2
    assert "does not generate text" in ended.err


@pytest.mark.parametrize(
    "wrong", [("--temperature", -1), ("--top-p", 1.5), ("--top-p", 0), ("--max-new-tokens", 0)]
)
def test_values_out_of_range(spikeformers, causal, wrong):
    assert spikeformers("generate", causal, "--prompt", PROMPT, *wrong).code == 2
