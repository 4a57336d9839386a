"""/v1/completions gives what `generate_text` and the engine itself give."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from spikeformers.engine import Engine
from spikeformers.engine.sampling import adjusted, make_sampler
from spikeformers.generation import generate_text

PROMPT = "a spike wins"
CHOICES: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 1.0, "seed": 1},
    {"temperature": 0.8, "top_k": 5, "seed": 2},
    {"temperature": 1.3, "top_p": 0.7, "seed": (1 << 64) - 1},
    {"temperature": 0.7, "seed": 3, "stop": ["q", "zz"]},
]


def log_softmax(logits: Any) -> Any:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


@pytest.mark.parametrize("choice", CHOICES)
def test_the_text_is_that_of_generate(running: Any, engine: Engine, choice: dict[str, Any]) -> None:
    options = {"seed": 0, "top_k": 0} | choice
    wanted = generate_text(engine, PROMPT, max_new_tokens=40, **options)
    answer = running.complete(PROMPT, max_tokens=40, **choice)
    [got] = answer["choices"]
    assert got["text"] == wanted.text
    finish = {"end": "stop", "stop": "stop", "length": "length"}[wanted.finish_reason]
    assert got["finish_reason"] == finish
    usage = answer["usage"]
    assert usage["completion_tokens"] == wanted.tokens
    assert usage["prompt_tokens"] == wanted.prompt_tokens
    assert usage["total_tokens"] == wanted.tokens + wanted.prompt_tokens


def test_a_text_that_fills_the_context_ends_there(running: Any, engine: Engine) -> None:
    wanted = generate_text(engine, PROMPT, max_new_tokens=1000, temperature=0)
    answer = running.complete(PROMPT, max_tokens=1000, temperature=0)
    assert answer["choices"][0]["text"] == wanted.text
    assert answer["usage"]["total_tokens"] <= engine.context


def test_a_stream_adds_up_to_the_whole_answer(running: Any) -> None:
    body: dict[str, Any] = {"max_tokens": 30, "seed": 5, "stop": "zq", "logprobs": 2, "echo": True}
    whole = running.complete(PROMPT, **body)
    chunks = running.stream(
        "/v1/completions", prompt=PROMPT, **body, stream_options={"include_usage": True}
    )
    assert chunks[-1]["choices"] == []
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    spikes = chunks[-1]["usage"].pop("spikes")
    assert spikes == whole["usage"].pop("spikes")
    assert chunks[-1]["usage"] == whole["usage"]
    parts = [chunk["choices"][0] for chunk in chunks[:-1]]
    assert "".join(part["text"] for part in parts) == whole["choices"][0]["text"]
    assert [part["finish_reason"] for part in parts[:-1]] == [None] * (len(parts) - 1)
    assert parts[-1]["finish_reason"] == whole["choices"][0]["finish_reason"]
    for key in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        joined = [each for part in parts for each in part["logprobs"][key]]
        assert joined == whole["choices"][0]["logprobs"][key], key


def test_several_choices_have_the_seeds_that_follow(running: Any, engine: Engine) -> None:
    answer = running.complete(PROMPT, max_tokens=12, seed=7, n=3)
    texts = [choice["text"] for choice in answer["choices"]]
    wanted = [
        generate_text(engine, PROMPT, max_new_tokens=12, temperature=1, top_k=0, seed=seed).text
        for seed in (7, 8, 9)
    ]
    assert texts == wanted
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert answer["usage"]["prompt_tokens"] == len(PROMPT)
    assert answer["usage"]["completion_tokens"] == 36


def test_a_request_without_a_seed_names_the_one_that_was_drawn(running: Any) -> None:
    first = running.complete(PROMPT, max_tokens=30)
    other = running.complete(PROMPT, max_tokens=30)
    assert first["seed"] != other["seed"]
    again = running.complete(PROMPT, max_tokens=30, seed=first["seed"])
    assert again["choices"][0]["text"] == first["choices"][0]["text"]


def test_prompts_may_be_texts_or_tokens_one_or_several(running: Any, engine: Engine) -> None:
    ids = engine.tokenizer(PROMPT)["input_ids"]
    other = engine.tokenizer("loses")["input_ids"]
    options: dict[str, Any] = {"max_tokens": 6, "temperature": 0}
    of_text = running.complete([PROMPT, "loses"], **options)["choices"]
    of_tokens = running.complete([ids, other], **options)["choices"]
    assert [c["text"] for c in of_text] == [c["text"] for c in of_tokens]
    [answer] = running.complete(ids, **options)["choices"]
    assert answer["text"] == of_text[0]["text"]
    [echoed] = running.complete(ids, **options, echo=True)["choices"]
    assert echoed["text"] == PROMPT + answer["text"]


def test_an_empty_prompt_begins_a_document(running: Any, engine: Engine) -> None:
    wanted = generate_text(engine, "", max_new_tokens=5, temperature=0)
    answer = running.complete("", max_tokens=5, temperature=0)
    assert answer["choices"][0]["text"] == wanted.text
    assert answer["usage"]["prompt_tokens"] == 1


def test_log_probabilities_are_those_of_the_model(running: Any, engine: Engine) -> None:
    answer = running.complete(PROMPT, max_tokens=5, seed=1, logprobs=3, echo=True)
    [choice] = answer["choices"]
    ids = engine.tokenizer(PROMPT)["input_ids"]
    drawn = list(engine.generate(ids, 5, temperature=1.0, seed=1))
    wanted = log_softmax(engine.feed_all(engine.sequence(), [*ids, *drawn]))
    reported = choice["logprobs"]
    assert reported["token_logprobs"][0] is None
    assert reported["top_logprobs"][0] is None
    for place, token in enumerate([*ids, *drawn][1:]):
        logprob = pytest.approx(wanted[place, token], abs=1e-9)
        assert reported["token_logprobs"][place + 1] == logprob
        top = reported["top_logprobs"][place + 1]
        assert max(top.values()) == pytest.approx(wanted[place].max(), abs=1e-9)
        assert 3 <= len(top) <= 4
    offsets = reported["text_offset"]
    assert offsets[: len(PROMPT)] == list(range(len(PROMPT)))
    assert len(offsets) == len(ids) + 5


def test_a_prompt_is_scored_without_new_text(running: Any) -> None:
    answer = running.complete(PROMPT, max_tokens=0, logprobs=0, echo=True)
    [choice] = answer["choices"]
    assert (choice["text"], choice["finish_reason"]) == (PROMPT, "length")
    assert len(choice["logprobs"]["token_logprobs"]) == len(PROMPT)
    assert answer["usage"]["completion_tokens"] == 0


def test_offsets_without_an_echo_begin_after_the_prompt(running: Any) -> None:
    answer = running.complete(PROMPT, max_tokens=2, logprobs=1, temperature=0)
    assert answer["choices"][0]["logprobs"]["text_offset"][0] == len(PROMPT)


def test_bias_and_penalties_change_what_is_drawn(running: Any, engine: Engine) -> None:
    ids = engine.tokenizer(PROMPT)["input_ids"]
    bias = {60: -100.0, 51: -3.5}
    choose = make_sampler(0.9, 0, 1.0, 11, 0.02)
    sequence, counts = engine.sequence(), Counter[int]()
    logits = engine.feed(sequence, ids)
    drawn: list[int] = []
    for _ in range(25):
        token = choose(adjusted(logits, bias, counts, 0.7, 1.1))
        drawn.append(token)
        counts[token] += 1
        logits = engine.feed(sequence, [token])
    options: dict[str, Any] = {
        **{"max_tokens": 25, "seed": 11, "temperature": 0.9, "min_p": 0.02, "spike_details": True},
        **{"presence_penalty": 0.7, "frequency_penalty": 1.1},
        "logit_bias": {str(token): value for token, value in bias.items()},
    }
    answer = running.complete(PROMPT, **options)
    got = [token["token_id"] for token in answer["choices"][0]["spikes"]]
    assert got == drawn[: len(got)]
    assert len(got) == 25 or got[-1] == engine.tokenizer.eos_token_id
    assert 60 not in got


def test_a_bias_may_force_a_token(running: Any, engine: Engine) -> None:
    token = engine.tokenizer("w")["input_ids"][0]
    answer = running.complete(PROMPT, max_tokens=4, temperature=0, logit_bias={str(token): 100})
    assert answer["choices"][0]["text"] == "wwww"


def test_spikes_are_those_that_the_engine_counts(running: Any, engine: Engine) -> None:
    answer = running.complete(PROMPT, max_tokens=6, seed=4, spike_details=True)
    ids = engine.tokenizer(PROMPT)["input_ids"]
    [choice] = answer["choices"]
    sequence = engine.sequence(details=True)
    engine.feed(sequence, ids)
    for token in choice["spikes"]:
        details = engine.details(sequence)
        assert token["events"] == details.token.events
        assert token["weight_bytes_read"] == details.token.weight_bytes
        assert token["density"] == details.token.density
        assert token["layers"] == [layer.cost.density for layer in details.layers]
        assert token["winners"] == [[list(head) for head in layer] for layer in details.winners]
        assert token["dense_weight_bytes"] == engine.dense_weight_bytes
        total = details.total
        engine.feed(sequence, [token["token_id"]])
    assert "".join(token["text"] for token in choice["spikes"]) == choice["text"]
    spikes = answer["usage"]["spikes"]
    assert spikes["events"] == total.events
    assert spikes["weight_bytes_read"] == total.weight_bytes
    assert spikes["density"] == total.events / total.neurons
    # 100 pJ per 64 bits of an SRAM of 1 MB, and an int32 addition of 0.1 pJ per weight of a byte
    assert spikes["estimated_nanojoules"] == pytest.approx(total.weight_bytes * 12.6 / 1000)


def test_what_a_dense_model_reads_is_every_matrix_once_per_token(
    running: Any, engine: Engine
) -> None:
    answer = running.complete(PROMPT, max_tokens=3, temperature=0)
    head = engine.packed.tensors["head"].nbytes
    tokens = len(PROMPT) + 2  # the last one is not read
    wanted = tokens * (engine.dense_weight_bytes - head) + 3 * head
    assert answer["usage"]["spikes"]["dense_weight_bytes"] == wanted


def test_details_come_with_the_chunks_that_carry_text(running: Any) -> None:
    body: dict[str, Any] = {"prompt": PROMPT, "max_tokens": 12, "seed": 4, "spike_details": True}
    chunks = running.stream("/v1/completions", **body)
    for chunk in chunks[:-1]:
        [choice] = chunk["choices"]
        assert choice["text"] == "".join(token["text"] for token in choice["spikes"])
        assert choice["spikes"]
    tokens = [token for chunk in chunks for token in chunk["choices"][0]["spikes"]]
    whole = running.complete(**body)
    assert tokens == whole["choices"][0]["spikes"]
