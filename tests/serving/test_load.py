"""Many clients at once, some of whom leave: nothing is lost, mixed up or leaked.

The short test is part of every run; the long one, of the issue's size, is slow.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from spikeformers.engine import Engine
from spikeformers.generation import generate_text

SHARED = "a spike wins or loses, and the neuron is quiet. " * 3  # more than two blocks
MIB = 1 << 20


@dataclass
class Tally:
    """What the clients saw."""

    answers: Counter[str] = field(default_factory=Counter)
    wrong: list[Any] = field(default_factory=list)


def cases_of(engine: Engine, count: int) -> list[tuple[dict[str, Any], str]]:
    """Requests, and the texts that they must give: by `generate_text`, alone."""
    draw = random.Random(0)
    cases = []
    for number in range(count):
        prompt = (SHARED if number % 2 else "") + "".join(draw.choices("abcdefg ", k=1 + number))
        tokens = draw.randint(1, 40)
        wanted = generate_text(
            engine, prompt, max_new_tokens=tokens, temperature=1, top_k=0, seed=number
        )
        cases.append(({"prompt": prompt, "max_tokens": tokens, "seed": number}, wanted.text))
    return cases


@contextmanager
def server_process(file: Path, *options: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``spikeformers serve`` in a process of its own, and its address; it must end well."""
    command = [sys.executable, "-m", "spikeformers", "serve", file, "--port", 0, *options]
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        lines = iter(process.stderr.readline, "")
        address = next(match[0] for line in lines if (match := re.search(r"http://\S+\d", line)))
        yield process, address
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        errors = process.stderr.read()
        assert errors.strip() == "", errors
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


async def client(
    url: str, cases: list[tuple[dict[str, Any], str]], until: float, seed: int, tally: Tally
) -> None:
    """Requests of one client until the time is up: whole, streamed, and abandoned ones."""
    draw = random.Random(seed)
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        while time.monotonic() < until:
            body, wanted = draw.choice(cases)
            kind = draw.choice(("whole", "stream", "abandoned", "gone"))
            try:
                if kind == "whole":
                    response = await http.post("/v1/completions", json=body)
                    if response.status_code == 429:
                        assert int(response.headers["retry-after"]) >= 1
                        tally.answers["full"] += 1
                        await asyncio.sleep(0.05)
                        continue
                    text = response.json()["choices"][0]["text"]
                elif kind == "gone":
                    with_timeout = http.post("/v1/completions", json=body, timeout=0.02)
                    await with_timeout
                    continue
                else:
                    text = await streamed(http, body, leave=kind == "abandoned")
            except httpx.TimeoutException:
                assert kind == "gone"
                tally.answers[kind] += 1
                continue
            except FullQueue:
                tally.answers["full"] += 1
                await asyncio.sleep(0.05)
                continue
            tally.answers[kind] += 1
            if kind != "abandoned" and text != wanted:
                tally.wrong.append((body, wanted, text))


class FullQueue(Exception):
    """A 429."""


async def streamed(http: httpx.AsyncClient, body: dict[str, Any], *, leave: bool) -> str:
    text = ""
    async with http.stream("POST", "/v1/completions", json=body | {"stream": True}) as response:
        if response.status_code == 429:
            raise FullQueue
        assert response.status_code == 200
        async for line in response.aiter_lines():
            if line == "data: [DONE]":
                return text
            if line:
                text += json.loads(line[6:])["choices"][0]["text"]
            if leave:
                return text
    raise AssertionError("a stream ended without [DONE]")


def resident(process: int) -> int | None:
    """Resident bytes of a process, where the system tells."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return None
    return 1024 * int(re.search(r"VmRSS:\s+(\d+)", status)[1])  # type: ignore[index]


def run_clients(
    url: str, cases: list[tuple[dict[str, Any], str]], clients: int, seconds: float
) -> Tally:
    tally = Tally()

    async def all_clients() -> None:
        until = time.monotonic() + seconds
        await asyncio.gather(*(client(url, cases, until, seed, tally) for seed in range(clients)))

    asyncio.run(all_clients())
    return tally


def check(url: str, tally: Tally) -> None:
    assert tally.wrong == []
    for kind in ("whole", "stream", "abandoned"):
        assert tally.answers[kind] > 0, tally.answers
    deadline = time.monotonic() + 20
    while (metrics := metrics_of(url))["spikeformers_texts_active"]:
        assert time.monotonic() < deadline, "a text is still being written"
        time.sleep(0.02)
    assert metrics["spikeformers_texts_waiting"] == 0
    assert metrics["spikeformers_texts_failed_total"] == 0
    assert metrics["spikeformers_cached_tokens_total"] > 0
    assert not [name for name in metrics if 'status="5' in name]


def metrics_of(url: str) -> dict[str, float]:
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    pairs = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
    return {name: float(value) for name, value in pairs}


def test_a_few_clients_for_a_moment(engine_file: Path, engine: Engine) -> None:
    cases = cases_of(engine, 12)
    with server_process(engine_file, "--threads", 1, "--slots", 4, "--max-queue", 4) as (_, url):
        tally = run_clients(url, cases, clients=10, seconds=2.5)
        check(url, tally)
        assert tally.answers["full"] > 0  # ten clients, eight places


@pytest.mark.slow
def test_sixty_four_clients_for_two_minutes(engine_file: Path, engine: Engine) -> None:
    cases = cases_of(engine, 60)
    options = ("--threads", 1, "--slots", 16, "--max-queue", 64, "--prefix-cache", 8)
    with server_process(engine_file, *options) as (process, url):
        check(url, run_clients(url, cases, clients=64, seconds=30))
        warm = resident(process.pid)
        tally = run_clients(url, cases, clients=64, seconds=120)
        check(url, tally)
        assert sum(tally.answers.values()) > 64 * 10
        after = resident(process.pid)
        if warm is not None and after is not None:
            assert after - warm < 8 * MIB, (warm, after, tally.answers)
