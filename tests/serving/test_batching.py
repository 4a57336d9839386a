"""Texts share the engine's steps, and nobody notices: the loop, the queue, the prefix cache."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from spikeformers.engine import Engine
from spikeformers.generation import generate_text

from .conftest import Start

LONG = "a spike wins or loses and " * 9  # 234 tokens: more than three blocks


def text_of(engine: Engine, prompt: str, seed: int, tokens: int) -> str:
    return generate_text(
        engine, prompt, max_new_tokens=tokens, temperature=1, top_k=0, seed=seed
    ).text


def test_a_full_batch_gives_each_text_what_it_gets_alone(start: Start, engine: Engine) -> None:
    prompts = [LONG[: 5 + 11 * place] for place in range(20)]
    wanted = [text_of(engine, prompt, seed, 40) for seed, prompt in enumerate(prompts)]
    with start(slots=6) as running, ThreadPoolExecutor(20) as pool:

        def request(place: int) -> str:
            if place % 2:
                body = {"prompt": prompts[place], "max_tokens": 40, "seed": place}
                chunks = running.stream("/v1/completions", **body)
                return "".join(chunk["choices"][0]["text"] for chunk in chunks)
            answer = running.complete(prompts[place], max_tokens=40, seed=place)
            text: str = answer["choices"][0]["text"]
            return text

        assert list(pool.map(request, range(20))) == wanted
        totals = running.scheduler.totals
        assert totals.new_tokens < 6 * totals.steps + 40  # several texts in most steps
        assert totals.steps < 20 * 39 / 2


def test_a_shared_beginning_is_read_once_and_changes_nothing(start: Start, engine: Engine) -> None:
    with start() as running:
        for ending in ("", "x", "another one"):
            prompt = LONG + ending
            before = running.scheduler.totals.prompt_tokens
            answer = running.complete(prompt, max_tokens=20, seed=3)
            assert answer["choices"][0]["text"] == text_of(engine, prompt, 3, 20)
            cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
            assert cached == (0 if ending == "" else 192)
            read = running.scheduler.totals.prompt_tokens - before
            assert read == len(prompt) - cached
        cache = running.scheduler.cache
        assert 0 < cache.bytes <= cache.bound


def test_a_conversation_continues_from_its_own_answer(start: Start, engine: Engine) -> None:
    with start() as running:
        first = running.complete(LONG, max_tokens=64, seed=1, spike_details=True)
        text = LONG + first["choices"][0]["text"]
        ids = engine.tokenizer(LONG)["input_ids"]
        ids += [token["token_id"] for token in first["choices"][0]["spikes"]]
        again = running.complete(ids, max_tokens=9, seed=1)
        assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == 256
        wanted = list(engine.generate(ids, 9, temperature=1.0, seed=1))
        shown = engine.tokenizer.decode(ids + wanted)[len(engine.tokenizer.decode(ids)) :]
        assert again["choices"][0]["text"] == shown or "\ufffd" in text


def test_choices_of_one_prompt_read_it_once(start: Start) -> None:
    with start() as running:
        answer = running.complete(LONG, max_tokens=2, n=4, seed=1)
        assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 3 * 192


def test_without_a_cache_everything_is_read(start: Start) -> None:
    with start(prefix_cache=0) as running:
        for _ in range(2):
            answer = running.complete(LONG, max_tokens=2, seed=1)
            assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
        assert running.scheduler.cache.bytes == 0


def test_log_probabilities_of_a_prompt_need_it_read(start: Start) -> None:
    with start() as running:
        body: dict[str, Any] = {"max_tokens": 1, "seed": 1, "echo": True, "logprobs": 1}
        first, again = (running.complete(LONG, **body) for _ in range(2))
        assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
        assert again["choices"] == first["choices"]


def test_who_writes_waits_no_longer_than_a_block(start: Start) -> None:
    """While a long prompt is read, a text that is being written gets a token for each block."""
    with start(prefix_cache=0) as running:
        scheduler = running.scheduler
        reads: list[int] = []
        read, write = scheduler._read, scheduler._write

        def spy_read(slot: Any, events: Any) -> None:
            before = 0 if slot.sequence is None else slot.sequence.tokens
            read(slot, events)
            reads.append(slot.sequence.tokens - before)

        def spy_write(events: Any) -> None:
            write(events)
            reads.append(0)

        scheduler._read, scheduler._write = spy_read, spy_write
        with ThreadPoolExecutor(2) as pool:
            writing = pool.submit(running.complete, "a", max_tokens=300, seed=1)
            while scheduler.totals.steps < 3:
                time.sleep(0.001)
            pool.submit(running.complete, LONG, max_tokens=1).result()
            writing.result()
        blocks = [place for place, tokens in enumerate(reads) if tokens > 1]
        assert [reads[place] for place in blocks] == [64, 64, 64, 234 - 192]
        assert all(reads[place + 1] == 0 for place in blocks)


def test_a_client_that_leaves_frees_its_slot_within_a_step(start: Start) -> None:
    with start(slots=1, context=320) as running:
        for stream in (True, False):
            body = json.dumps({"prompt": "a", "max_tokens": 310, "stream": stream, "seed": 2,
                               "logit_bias": {"257": -100, "256": -100}})  # fmt: skip
            slow_down(running, 0.05)
            with running.http.stream("POST", "/v1/completions", content=body,
                                     headers={"content-type": "application/json"}
                                     ) if stream else _abandoned(running, body):  # fmt: skip
                wait_for(lambda: running.scheduler.active == 1)
            steps = running.scheduler.totals.steps
            wait_for(lambda: running.scheduler.active == 0)
            # one step may be under way when the client leaves, and one begin before it is known
            assert running.scheduler.totals.steps - steps <= 3
            slow_down(running, 0)
        assert running.scheduler.totals.cancelled == 2


class _abandoned:
    """A request whose socket is closed without waiting for the answer."""

    def __init__(self, running: Any, body: str) -> None:
        import socket

        host, port = running.url.removeprefix("http://").split(":")
        self.socket = socket.create_connection((host, int(port)))
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self.socket.sendall((head + body).encode())

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None:
        self.socket.close()


def slow_down(running: Any, seconds: float) -> None:
    """Let every step of the engine take at least so long."""
    engine = running.service.model.engine
    plain = type(engine).step

    def step(*arguments: Any) -> Any:
        time.sleep(seconds)
        return plain(engine, *arguments)

    engine.step = step


def wait_for(condition: Any, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_a_full_queue_is_answered_by_429(start: Start) -> None:
    with start(slots=1, max_queue=1) as running, ThreadPoolExecutor(2) as pool:
        slow_down(running, 0.02)
        busy = [pool.submit(running.complete, "a", max_tokens=30, seed=1) for _ in range(2)]
        wait_for(lambda: running.scheduler.active == 1 and running.scheduler.waiting == 1)
        refused = running.post("/v1/completions", prompt="a", max_tokens=1)
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert refused.json()["error"]["code"] == "queue_full"
        texts = {future.result()["choices"][0]["text"] for future in busy}
        assert len(texts) == 1
        assert running.complete("a", max_tokens=1)


def test_more_texts_than_the_server_holds_are_refused(start: Start) -> None:
    with start(slots=2, max_queue=1) as running:
        response = running.post("/v1/completions", prompt="a", n=4)
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "n"
        assert len(running.complete("a", n=3, max_tokens=1)["choices"]) == 3


def test_a_request_that_takes_too_long_ends(start: Start) -> None:
    with start(slots=1, timeout=0.3) as running, ThreadPoolExecutor(2) as pool:
        slow_down(running, 0.05)
        first = pool.submit(running.post, "/v1/completions", prompt="a", max_tokens=200)
        waiting = pool.submit(running.post, "/v1/completions", prompt="a", max_tokens=200)
        for response in (first.result(), waiting.result()):
            assert response.status_code == 504
            assert response.json()["error"]["code"] == "timeout"
        wait_for(lambda: running.scheduler.active == 0)
        with running.http.stream("POST", "/v1/completions", json={
            "prompt": "a", "max_tokens": 200, "stream": True, "logit_bias": {"97": 100},
        }) as response:  # fmt: skip
            assert response.status_code == 200
            lines = [line for line in response.iter_lines() if line]
        assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "timeout"


def test_what_the_engine_cannot_do_fails_only_those_texts(start: Start) -> None:
    from spikeformers.errors import CheckpointError

    with start() as running:
        engine = running.service.model.engine
        plain = type(engine).feed_all

        def feed_all(sequence: Any, tokens: Any, *, last: bool = False) -> Any:
            if 90 in tokens:
                raise CheckpointError("values that are not finite")
            if 89 in tokens:
                raise MemoryError
            return plain(engine, sequence, tokens, last=last)

        engine.feed_all = feed_all
        for prompt, message in (("a Z", "not finite"), ("a Y", "MemoryError")):
            response = running.post("/v1/completions", prompt=prompt)
            assert response.status_code == 503
            assert message in response.json()["error"]["message"]
        assert running.complete("a", max_tokens=1)
        assert running.scheduler.active == 0
        assert running.scheduler.totals.failed == 2


@pytest.mark.parametrize("stream", [True, False])
def test_at_the_end_what_runs_has_a_while_and_then_fails(start: Start, stream: bool) -> None:
    with start(grace=0.2) as running:
        slow_down(running, 0.05)
        lines: list[str] = []
        never = {str(running.service.model.engine.tokenizer.eos_token_id): -100}  # is drawn

        def read() -> None:
            body = {"prompt": "a", "max_tokens": 300, "stream": stream, "logit_bias": never}
            with running.http.stream("POST", "/v1/completions", json=body) as response:
                lines.append(str(response.status_code))
                lines.extend(line for line in response.iter_lines() if line)

        reader = threading.Thread(target=read)
        reader.start()
        wait_for(lambda: running.scheduler.totals.steps > 2)
        running.server.should_exit = True
        running.thread.join(10)
        reader.join(10)
        assert not reader.is_alive()
        assert not running.thread.is_alive()
        assert lines[0] == ("200" if stream else "503")
        error = json.loads(lines[-1].removeprefix("data: "))["error"]
        assert error["code"] == "shutting_down"
