"""Keys, origins, host names: who may call."""

from __future__ import annotations

from typing import Any

import pytest

from spikeformers.errors import ConfigError, UsageError
from spikeformers.serving.gate import host_name
from spikeformers.serving.options import ServeOptions, is_loopback, key_from

from .conftest import Start

PATHS = ["/v1/models", "/metrics", "/tokenizer_info", "/openapi.json", "/v1/nothing"]


def test_without_the_key_nothing_but_the_page_and_health_answers(start: Start) -> None:
    with start(api_key="secret-1") as running:
        url = running.url
        wrong: list[dict[str, str]] = [
            {},
            {"Authorization": "Bearer secret-2"},
            {"Authorization": "Bearer"},
            {"Authorization": "Basic secret-1"},
            {"Authorization": "secret-1"},
            {"Authorization": "Bearer secret-1x"},
        ]
        import httpx

        for headers in wrong:
            for path in PATHS:
                response = httpx.get(url + path, headers=headers)
                assert response.status_code == 401, (path, headers)
                assert response.json()["error"]["code"] == "invalid_api_key"
                assert response.headers["www-authenticate"] == "Bearer"
            body = {"prompt": "a"}
            response = httpx.post(url + "/v1/completions", json=body, headers=headers)
            assert response.status_code == 401
        raw = httpx.get(url + "/v1/models", headers={"Authorization": b"Bearer \xe9\xff"})
        assert raw.status_code == 401
        assert httpx.get(url + "/health").json() == {"status": "ok"}
        assert httpx.get(url + "/").status_code == 200
        assert running.http.get("/v1/models").status_code == 200
        assert running.complete("a", max_tokens=1)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.8.9.1"])
def test_the_loopback_needs_no_key(host: str) -> None:
    assert is_loopback(host)
    assert ServeOptions("x", host=host).api_key is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.com", ""])
def test_another_host_needs_a_key_or_a_clear_no(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(UsageError, match="--api-key"):
        ServeOptions("x", host=host)
    ServeOptions("x", host=host, no_auth=True)
    ServeOptions("x", host=host, api_key="k")


def test_the_environment_may_hold_the_key() -> None:
    assert key_from(None, {"SPIKEFORMERS_API_KEY": "e"}) == "e"
    assert key_from("given", {"SPIKEFORMERS_API_KEY": "e"}) == "given"
    assert key_from(None, {"SPIKEFORMERS_API_KEY": ""}) is None
    assert key_from(None, {}) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"api_key": ""},
        {"api_key": "with space"},
        {"api_key": "é"},
        {"api_key": "a\nb"},
        {"api_key": "k", "no_auth": True},
        {"port": -1},
        {"port": 65536},
        {"slots": 0},
        {"slots": 100_000},
        {"max_queue": -1},
        {"timeout": 0},
        {"timeout": float("nan")},
        {"timeout": float("inf")},
        {"context": 1},
        {"prefix_cache": -1},
        {"max_body": 1},
    ],
    ids=str,
)
def test_wrong_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        ServeOptions("x", **wrong)


def test_a_name_that_only_resolves_here_is_refused(running: Any) -> None:
    """A page of evil.example, which resolves to 127.0.0.1, cannot read the answers."""
    for host in ("evil.example", "evil.example:8000", "", "127.0.0.1.evil.example"):
        response = running.http.get("/v1/models", headers={"Host": host})
        assert response.status_code == 403, host
        assert response.json()["error"]["code"] == "host_not_allowed"
    for host in ("localhost", "localhost:1234", "127.0.0.1:1", "[::1]:8000"):
        assert running.http.get("/v1/models", headers={"Host": host}).status_code == 200


def test_with_a_key_any_name_will_do(start: Start) -> None:
    with start(api_key="k") as running:
        response = running.http.get("/v1/models", headers={"Host": "model.example"})
        assert response.status_code == 200


def test_host_names_are_read_without_ports() -> None:
    assert host_name("localhost:80") == "localhost"
    assert host_name("[::1]:80") == "::1"
    assert host_name("a") == "a"


def test_only_named_origins_may_read(start: Start) -> None:
    preflight = {"Access-Control-Request-Method": "POST",
                 "Access-Control-Request-Headers": "authorization, content-type"}  # fmt: skip
    with start(api_key="k", cors_origins=("https://ok.example",)) as running:
        for origin, allowed in (("https://ok.example", True), ("https://no.example", False)):
            options = running.http.options(
                "/v1/completions", headers={"Origin": origin, **preflight, "Authorization": ""}
            )
            assert (options.status_code == 200) is allowed
            response = running.http.get("/v1/models", headers={"Origin": origin})
            named = response.headers.get("access-control-allow-origin")
            assert named == (origin if allowed else None)
        refused = running.http.get(
            "/v1/models", headers={"Origin": "https://ok.example", "Authorization": "no"}
        )
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "https://ok.example"


def test_without_origins_no_page_may_read(running: Any) -> None:
    response = running.http.get("/v1/models", headers={"Origin": "https://ok.example"})
    assert "access-control-allow-origin" not in response.headers
