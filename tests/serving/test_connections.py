"""Connections that are slow, half-open or broken: each is closed, and the server continues."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from spikeformers.serving import body as body_module
from spikeformers.serving import responses, server
from spikeformers.serving.page import policy_of

from .conftest import Running, Start

HEAD = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@contextmanager
def connected(running: Running, buffer: int | None = None) -> Iterator[socket.socket]:
    host, port = running.url.removeprefix("http://").split(":")
    with socket.socket() as connection:
        if buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        connection.settimeout(20)
        connection.connect((host, int(port)))
        yield connection


def read_all(connection: socket.socket) -> bytes:
    """What comes until the other side closes; a reset is an end as well."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def request(body: bytes, more: str = "") -> bytes:
    return f"{HEAD}{more}Content-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize("sent", [b"", b"POST /v1/comp", HEAD.encode()], ids=str)
def test_a_connection_without_a_whole_head_is_closed(
    running: Any, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HEADER_SECONDS", 0.2)
    with connected(running) as connection:
        connection.sendall(sent)
        assert read_all(connection) == b""
    assert running.complete("a", max_tokens=1)


def test_also_the_second_head_of_a_connection(
    running: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HEADER_SECONDS", 0.3)
    with connected(running) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /hea")
        assert read_all(connection).startswith(b"HTTP/1.1 200")


def test_a_body_that_does_not_come_is_answered_408(
    running: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body_module, "BODY_SECONDS", 0.2)
    monkeypatch.setattr(server, "HEADER_SECONDS", 0.3)
    with connected(running) as connection:
        connection.sendall(f'{HEAD}Content-Length: 100\r\n\r\n{{"prompt": '.encode())
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"type":"timeout_error"' in answer


def test_a_body_that_ends_early_harms_nobody(running: Any) -> None:
    for how in ("shut", "reset"):
        with connected(running) as connection:
            connection.sendall(f'{HEAD}Content-Length: 100\r\n\r\n{{"prompt": '.encode())
            if how == "shut":
                connection.shutdown(socket.SHUT_WR)
                read_all(connection)
            else:
                linger = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    assert running.complete("a", max_tokens=1)
    assert running.scheduler.active == 0


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\xff\xfe\x80 nonsense\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: abc\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_not_http_is_refused(running: Any, sent: bytes) -> None:
    with connected(running) as connection:
        connection.sendall(sent)
        answer = read_all(connection)
    assert answer == b"" or answer.split(b" ", 2)[1][:1] == b"4", answer
    assert running.complete("a", max_tokens=1)


def test_who_closes_half_a_connection_after_asking_has_left(running: Any) -> None:
    body = json.dumps({"prompt": "a", "max_tokens": 3, "temperature": 0}).encode()
    with connected(running) as connection:
        connection.sendall(request(body))
        connection.shutdown(socket.SHUT_WR)
        read_all(connection)
    running.wait_until_idle()


def test_a_reader_that_stalls_loses_its_connection_and_its_slot(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Enough is streamed to fill every buffer; none of it is read."""
    monkeypatch.setattr(responses, "STALL_SECONDS", 0.3)
    with start(slots=4, max_queue=200) as running:
        body = json.dumps({
            "prompt": "a", "max_tokens": 300, "stream": True, "n": 100, "logprobs": 20, "seed": 1,
            "spike_details": True, "logit_bias": {"257": -100, "256": -100},
        }).encode()  # fmt: skip
        with connected(running, buffer=4096) as connection:
            connection.sendall(request(body))
            deadline = time.monotonic() + 60
            while not running.scheduler.active:
                assert time.monotonic() < deadline
                time.sleep(0.005)
            running.wait_until_idle(60)
            assert running.scheduler.totals.cancelled > 0
            answer = read_all(connection)
        assert not answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        assert running.complete("a", max_tokens=1)
        deadline = time.monotonic() + 60
        while running.server.server_state.tasks:
            assert time.monotonic() < deadline
            time.sleep(0.005)


def test_many_open_connections_leave_room_for_others(running: Any) -> None:
    connections = []
    try:
        host, port = running.url.removeprefix("http://").split(":")
        for _ in range(200):
            connection = socket.create_connection((host, int(port)), timeout=20)
            connection.sendall(b"GET /health HTTP/1.1\r\n")
            connections.append(connection)
        assert running.complete("a", max_tokens=1)
    finally:
        for connection in connections:
            connection.close()


def test_health_and_metrics_report(running: Any) -> None:
    assert running.http.get("/health").json() == {"status": "ok"}
    running.complete("a", max_tokens=3, temperature=0)
    before = metrics_of(running)
    running.complete("a", max_tokens=3, temperature=0)
    after = metrics_of(running)
    path = 'spikeformers_requests_total{path="/v1/completions",status="200"}'
    assert after[path] - before[path] == 1
    moved = {
        name: after[f"spikeformers_{name}"] - before[f"spikeformers_{name}"]
        for name in ("generated_tokens_total", "prompt_tokens_total", "steps_total")
    }
    assert moved == {"generated_tokens_total": 3, "prompt_tokens_total": 1, "steps_total": 2}
    assert after["spikeformers_events_total"] > before["spikeformers_events_total"] > 0
    assert after["spikeformers_slots"] == 8
    assert after["spikeformers_time_to_first_token_seconds_count"] >= 2


def metrics_of(running: Any) -> dict[str, float]:
    lines = running.http.get("/metrics").text.splitlines()
    pairs = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
    return {name: float(value) for name, value in pairs}


def test_while_the_model_loads_the_server_says_so(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    import httpx

    from spikeformers.serving import service

    gate, opened = threading.Event(), []
    plain = service.open_engine

    def slow(*arguments: Any, **options: Any) -> Any:
        def probe() -> None:
            for method, path in (("GET", "/health"), ("GET", "/v1/models"),
                                 ("POST", "/v1/completions"), ("GET", "/metrics")):  # fmt: skip
                opened.append(httpx.request(method, url[0] + path, json={}).status_code)
            gate.set()

        url = ["http://" + ":".join(map(str, address()))]
        threading.Thread(target=probe).start()
        gate.wait(20)
        return plain(*arguments, **options)

    def address() -> tuple[str, int]:
        while not seen:
            time.sleep(0.005)
        return seen[0]

    seen: list[tuple[str, int]] = []
    listen = server._listen

    def note(host: str, port: int) -> socket.socket:
        listener = listen(host, port)
        seen.append(listener.getsockname())
        return listener

    monkeypatch.setattr(server, "_listen", note)
    monkeypatch.setattr(service, "open_engine", slow)
    with start() as running:
        assert opened == [503, 503, 503, 200]
        assert running.http.get("/health").status_code == 200


def test_the_page_may_run_only_its_own_script(running: Any) -> None:
    response = running.http.get("/")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    policy = response.headers["content-security-policy"]
    assert policy == policy_of(response.content)
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert policy.count("'sha256-") == 2
    for fetched in (b" src=", b"url(http", b"@import", b"<link"):
        assert fetched not in response.content
    assert b" style=" not in response.content  # the policy would not apply them
    assert b" onclick=" not in response.content


def test_a_policy_names_each_inline_script() -> None:
    policy = policy_of(b"<script>a</script><p><SCRIPT type='x'>b</SCRIPT>")
    assert policy.count("sha256-") == 2
    assert "style-src 'none'" in policy
    digest = "sha256-ypeBEsobvcr6wjGzmiPcTaeG7/gUfE5yuYB3ha/uSLs="  # of "a"
    assert digest in policy


def test_the_schema_names_every_parameter(running: Any) -> None:
    schema = running.http.get("/openapi.json").json()
    body = schema["paths"]["/v1/completions"]["post"]["requestBody"]
    named = body["content"]["application/json"]["schema"]["properties"]
    assert {"prompt", "top_k", "min_p", "spike_details", "logit_bias"} <= set(named)
