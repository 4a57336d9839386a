"""/v1/chat/completions: the tokenizer's own template, and OpenAI's form."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from spikeformers.engine import Engine, write
from spikeformers.export import pack
from spikeformers.generation import generate_text

from .conftest import Start, make_model

PATH = "/v1/chat/completions"


def ask(running: Any, content: Any = "a spike", **body: Any) -> Any:
    messages = [{"role": "user", "content": content}]
    response = running.post(PATH, messages=messages, **body)
    assert response.status_code == 200, response.text
    return response.json()


def test_the_answer_is_that_of_generate(running: Any, engine: Engine) -> None:
    wanted = generate_text(
        engine, "a spike", chat=True, max_new_tokens=20, temperature=1, top_k=0, seed=6
    )
    answer = ask(running, max_tokens=20, seed=6)
    assert answer["object"] == "chat.completion"
    [choice] = answer["choices"]
    message = {"role": "assistant", "content": wanted.text, "refusal": None}
    assert choice["message"] == message
    assert choice["finish_reason"] == "length"
    assert answer["usage"]["prompt_tokens"] == wanted.prompt_tokens


def test_without_a_limit_the_answer_may_fill_the_context(running: Any, engine: Engine) -> None:
    wanted = generate_text(engine, "a spike", chat=True, max_new_tokens=9999, temperature=0)
    answer = ask(running, temperature=0)
    assert answer["choices"][0]["message"]["content"] == wanted.text


def test_both_names_of_the_limit_work(running: Any) -> None:
    for limit in ({"max_tokens": 3}, {"max_completion_tokens": 3}):
        assert ask(running, temperature=0, **limit)["usage"]["completion_tokens"] == 3


def test_a_conversation_is_rendered_in_order(running: Any, engine: Engine) -> None:
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": "d"},
    ]
    end = engine.tokenizer.eos_token
    text = f"<system>be brief{end}\n<user>ab{end}\n<assistant>c{end}\n<user>d{end}\n<assistant>"
    ids = engine.tokenizer(text, add_special_tokens=False)["input_ids"]
    response = running.post(PATH, messages=messages, max_tokens=8, temperature=0)
    wanted = engine.tokenizer.decode(list(engine.generate(ids, 8)))
    assert response.json()["choices"][0]["message"]["content"] == wanted
    assert response.json()["usage"]["prompt_tokens"] == len(ids)


def test_a_stream_begins_with_the_role_and_adds_up(running: Any) -> None:
    body: dict[str, Any] = {
        **{"max_tokens": 20, "seed": 6, "n": 2, "logprobs": True, "top_logprobs": 2},
        "messages": [{"role": "user", "content": "a spike"}],
    }
    whole = running.post(PATH, **body).json()
    chunks = running.stream(PATH, **body)
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    for index in (0, 1):
        parts = [p for chunk in chunks for p in chunk["choices"] if p["index"] == index]
        assert parts[0]["delta"] == {"role": "assistant", "content": ""}
        text = "".join(part["delta"].get("content", "") for part in parts)
        choice = whole["choices"][index]
        assert text == choice["message"]["content"]
        assert parts[-1]["finish_reason"] == choice["finish_reason"]
        entries = [e for p in parts if p["logprobs"] for e in p["logprobs"]["content"]]
        assert entries == choice["logprobs"]["content"]


def test_log_probabilities_have_bytes(running: Any) -> None:
    answer = ask(running, max_tokens=6, seed=2, logprobs=True, top_logprobs=4)
    for entry in answer["choices"][0]["logprobs"]["content"]:
        assert len(entry["top_logprobs"]) == 4
        chances = [each["logprob"] for each in entry["top_logprobs"]]
        assert chances == sorted(chances, reverse=True)
        assert math.exp(entry["logprob"]) <= math.exp(chances[0])
        if not entry["token"].startswith("bytes:"):
            assert bytes(entry["bytes"]).decode() == entry["token"]


def test_a_template_may_refuse_messages(running: Any) -> None:
    response = running.post(PATH, messages=[{"role": "user", "content": "raise"}])
    assert response.status_code == 400
    assert "this template refuses it" in response.json()["error"]["message"]
    assert response.json()["error"]["param"] == "messages"


@pytest.fixture(scope="module")
def without_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    write(pack(*make_model(folder, template=None), "fp32"), folder / "plain.engine")
    return folder / "plain.engine"


def test_a_model_without_a_template_says_so(start: Start, without_template: Path) -> None:
    with start(model=without_template) as running:
        assert running.http.get("/v1/models").json()["data"][0]["chat"] is False
        response = running.post(PATH, messages=[{"role": "user", "content": "a"}])
        assert response.status_code == 400
        error = response.json()["error"]
        assert error["code"] == "no_chat_template"
        assert "/v1/completions" in error["message"]
        assert running.complete("a", max_tokens=2)["usage"]["completion_tokens"] == 2
