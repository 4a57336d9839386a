"""Whatever is sent, the answer is a clear 4xx, and the server continues."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .conftest import Start

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
USER = [{"role": "user", "content": "a"}]


def error_of(response: Any, status: int = 400) -> Any:
    """The error of a response, in OpenAI's shape."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    return body["error"]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"prompt": 5}, "prompt"),
    ({"prompt": {}}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [[]]}, "prompt"),
    ({"prompt": [1, "a"]}, "prompt"),
    ({"prompt": [-1]}, "prompt"),
    ({"prompt": [True]}, "prompt"),
    ({"prompt": [10**30]}, "prompt"),
    ({"prompt": [258]}, "prompt"),
    ({"prompt": "a" * 321}, "prompt"),
    ({"prompt": "a" * 320}, "prompt"),
    ({"prompt": "\ud800"}, "prompt"),
    ({}, "prompt"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": "5"}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_tokens": True}, "max_tokens"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": 1e-300}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.1}, "top_p"),
    ({"top_k": -1}, "top_k"),
    ({"min_p": 2}, "min_p"),
    ({"seed": -1}, "seed"),
    ({"seed": 1 << 64}, "seed"),
    ({"n": 0}, "n"),
    ({"n": 129}, "n"),
    ({"n": 100}, "n"),
    ({"stop": 5}, "stop"),
    ({"stop": ""}, "stop"),
    ({"stop": ["a", ""]}, "stop"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"logprobs": 21}, "logprobs"),
    ({"logprobs": True}, "logprobs"),
    ({"logit_bias": {"258": 1}}, "logit_bias"),
    ({"logit_bias": {"-1": 1}}, "logit_bias"),
    ({"logit_bias": {"a": 1}}, "logit_bias"),
    ({"logit_bias": {"\u00b2": 1}}, "logit_bias"),
    ({"logit_bias": {"1": 101}}, "logit_bias.1"),
    ({"logit_bias": [1]}, "logit_bias"),
    ({"presence_penalty": 2.1}, "presence_penalty"),
    ({"frequency_penalty": -3}, "frequency_penalty"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": {"more": 1}}, "stream_options.more"),
    ({"best_of": 2}, "best_of"),
    ({"suffix": "x"}, "suffix"),
    ({"user": "me"}, "user"),
    ({"no_such_thing": 1}, "no_such_thing"),
]


@pytest.mark.parametrize(("body", "param"), WRONG, ids=lambda value: str(value)[:40])
def test_a_wrong_completion_names_the_parameter(
    running: Any, body: dict[str, Any], param: str
) -> None:
    whole = body if "prompt" in body or not body else {"prompt": "a"} | body
    sent = json.dumps(whole).encode("utf-8")
    headers = {"content-type": "application/json"}
    response = running.http.post(COMPLETIONS, content=sent, headers=headers)
    error = error_of(response)
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert param in error["message"] or param in ("prompt", "n")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "a"}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "nobody", "content": "a"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
         "messages.0.content"),
        ({"messages": [*USER, {"role": "user", "content": "a", "name": "x"}]}, "messages.1.name"),
        ({"messages": [{"role": "user", "content": "a" * 400}]}, "messages"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"tools": []}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"echo": True}, "echo"),
        ({"prompt": "a"}, "prompt"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_a_wrong_chat_names_the_parameter(running: Any, body: dict[str, Any], param: str) -> None:
    error = error_of(running.post(CHAT, **{"messages": USER} | body))
    assert error["param"] == param


def test_null_is_the_same_as_nothing(running: Any) -> None:
    nulls = dict.fromkeys(("stop", "seed", "logprobs", "stream", "tools", "best_of", "max_tokens"))
    answer = running.complete("a", **nulls)
    assert answer["usage"]["completion_tokens"] <= 16


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"null", "the request"),
        (b"[]", "the request"),
        (b'"a"', "the request"),
        (b'{"prompt": "\xff"}', "byte 0xff at offset 12"),
        (b'{"prompt": "a", "temperature": NaN}', "NaN is not a JSON number"),
        (b'{"prompt": "a", "temperature": -Infinity}', "-Infinity is not"),
        (b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 50_000, "nested too deeply"),
        (b'\xff\xfe{\x00}\x00', "not UTF-8"),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
@pytest.mark.parametrize("path", [COMPLETIONS, CHAT, "/tokenize", "/detokenize"])
def test_what_is_not_json_is_refused(running: Any, path: str, body: bytes, message: str) -> None:
    headers = {"content-type": "application/json; charset=utf-8"}
    error = error_of(running.http.post(path, content=body, headers=headers))
    assert message in error["message"]


def test_a_number_beyond_all_floats_is_refused(running: Any) -> None:
    headers = {"content-type": "application/json"}
    body = b'{"prompt": "a", "temperature": 1e400}'
    error = error_of(running.http.post(COMPLETIONS, content=body, headers=headers))
    assert error["param"] == "temperature"


def test_other_types_than_json_are_refused(running: Any) -> None:
    """A web page may send plain text to this server without asking; JSON it may not."""
    for media in ("text/plain", "application/x-www-form-urlencoded", None):
        headers = {} if media is None else {"content-type": media}
        response = running.http.post(COMPLETIONS, content=b'{"prompt":"a"}', headers=headers)
        assert "application/json" in error_of(response, 415)["message"]


def test_a_large_body_is_refused_whether_or_not_it_says_so(start: Start) -> None:
    with start(max_body=2000) as running:
        body = json.dumps({"prompt": "a" * 5000}).encode()
        headers = {"content-type": "application/json"}
        assert error_of(running.http.post(COMPLETIONS, content=body, headers=headers), 413)
        pieces = (body[i : i + 100] for i in range(0, len(body), 100))
        assert error_of(running.http.post(COMPLETIONS, content=pieces, headers=headers), 413)
        assert running.complete("a", max_tokens=1)


def test_another_model_is_not_found(running: Any) -> None:
    for path, body in ((COMPLETIONS, {"prompt": "a"}), (CHAT, {"messages": USER})):
        error = error_of(running.post(path, model="gpt-x", **body), 404)
        assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert running.complete("a", model="tiny", max_tokens=1)["model"] == "tiny"
    assert error_of(running.http.get("/v1/models/other"), 404)
    assert running.http.get("/v1/models/tiny").json()["id"] == "tiny"


def test_other_paths_and_methods_have_the_same_shape_of_error(running: Any) -> None:
    assert error_of(running.http.get("/v1/nothing"), 404)
    assert error_of(running.http.get(COMPLETIONS), 405)
    assert error_of(running.http.delete("/v1/models"), 405)


def test_tokens_come_and_go(running: Any, engine: Any) -> None:
    text = "a spike é 🙂"
    tokens = running.post("/tokenize", prompt=text).json()
    ids = engine.tokenizer(text)["input_ids"]
    assert tokens == {"tokens": ids, "count": len(ids), "max_model_len": 320}
    assert running.post("/detokenize", tokens=ids).json() == {"prompt": text}
    assert running.post("/tokenize", prompt="").json()["tokens"] == []
    assert running.post("/detokenize", tokens=[]).json() == {"prompt": ""}
    assert error_of(running.post("/detokenize", tokens=[258]))["param"] == "tokens"
    assert error_of(running.post("/detokenize", tokens=[-1]))["param"] == "tokens.0"
    assert error_of(running.post("/tokenize", prompt=5))["param"] == "prompt"
    info = running.http.get("/tokenizer_info").json()
    assert info["eos_token"] == engine.tokenizer.eos_token


# --- fuzz -----------------------------------------------------------------------------------------

NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70), st.integers(-3, 40), st.floats(allow_nan=False), st.booleans()
)
LEAVES = st.one_of(st.none(), NUMBERS, st.text(max_size=20))
JSON = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
SENSIBLE: dict[str, st.SearchStrategy[Any]] = {
    "model": st.just("tiny"),
    "max_tokens": st.integers(0, 4),
    "temperature": st.floats(0, 3),
    "top_p": st.floats(0, 1),
    "top_k": st.integers(0, 300),
    "min_p": st.floats(0, 1),
    "seed": st.integers(0, 2**64),
    "n": st.integers(1, 3),
    "stop": st.one_of(st.text(max_size=3), st.lists(st.text(min_size=1, max_size=3), max_size=3)),
    "logit_bias": st.dictionaries(st.integers(0, 260).map(str), st.floats(-100, 100), max_size=4),
    "presence_penalty": st.floats(-2, 2),
    "frequency_penalty": st.floats(-2, 2),
    "stream": st.booleans(),
    "stream_options": st.fixed_dictionaries({"include_usage": st.booleans()}),
    "spike_details": st.booleans(),
}
COMPLETION = SENSIBLE | {
    "prompt": st.one_of(
        st.text(max_size=30),
        st.lists(st.text(max_size=9), max_size=3),
        st.lists(st.integers(0, 260), max_size=9),
    ),
    "logprobs": st.integers(0, 20),
    "echo": st.booleans(),
}
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant"]), "content": st.text(max_size=20)}
)
CHATS = SENSIBLE | {
    "messages": st.lists(MESSAGE, max_size=3),
    "max_completion_tokens": st.integers(0, 4),
    "logprobs": st.booleans(),
    "top_logprobs": st.integers(0, 20),
}


def bodies(sensible: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """Requests of which each parameter is sensible or anything, and some are unknown."""
    needed = {key: sensible[key] for key in ("prompt", "messages") if key in sensible}
    others = {key: values for key, values in sensible.items() if key not in needed}
    sound = st.fixed_dictionaries(needed, optional=others)
    loose = {key: st.one_of(values, JSON) for key, values in sensible.items()}
    return st.one_of(
        sound,
        st.fixed_dictionaries({}, optional=loose),
        st.builds(lambda a, b: {**a, **b}, sound, st.dictionaries(st.text(max_size=9), JSON)),
        JSON,
    )


def check_answer(running: Any, path: str, body: Any) -> None:
    raw = json.dumps(body).encode("utf-8")
    headers = {"content-type": "application/json"}
    response = running.http.post(path, content=raw, headers=headers)
    assert response.status_code in (200, 400, 404), (response.status_code, response.text)
    if response.status_code != 200:
        error_of(response, response.status_code)
        return
    if not response.headers["content-type"].startswith("text/event-stream"):
        assert response.json()
        return
    assert response.text.endswith("data: [DONE]\n\n")


FUZZ = settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@FUZZ
@given(body=bodies(COMPLETION))
def test_no_completion_is_a_500(running: Any, body: Any) -> None:
    check_answer(running, COMPLETIONS, body)


@FUZZ
@given(body=bodies(CHATS))
def test_no_chat_is_a_500(running: Any, body: Any) -> None:
    check_answer(running, CHAT, body)


@FUZZ
@given(
    path=st.sampled_from([COMPLETIONS, CHAT, "/tokenize", "/detokenize"]),
    body=st.binary(max_size=200),
)
def test_no_bytes_are_a_500(running: Any, path: str, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    response = running.http.post(path, content=body, headers=headers)
    error_of(response)
