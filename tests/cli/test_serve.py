"""``spikeformers serve``: what it refuses, and how it ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("spikeformers.kernels._native")


def started(model: Path, *options: object, **environment: str) -> tuple[Any, str]:
    """A server in a process of its own, and its address."""
    command = [sys.executable, "-m", "spikeformers", "serve", model, "--port", 0, *options]
    process = subprocess.Popen(
        list(map(str, command)), stderr=subprocess.PIPE, text=True, env=os.environ | environment
    )
    assert process.stderr is not None
    for line in iter(process.stderr.readline, ""):
        if found := re.search(r"http://\S+\d", line):
            return process, found[0]
    raise AssertionError(process.wait())


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=str)
def test_a_signal_finishes_what_runs_and_exits_0(engine_file: Path, how: signal.Signals) -> None:
    process, url = started(engine_file, "--threads", 1)
    body = {"prompt": "the spike", "max_tokens": 20, "stream": True, "seed": 1}
    with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=30) as response:
        process.send_signal(how)
        assert response.read().endswith(b"data: [DONE]\n\n")
    assert process.wait(20) == 0
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()


def test_a_model_folder_is_packed_on_the_way(causal: Path, engine_file: Path) -> None:
    texts = []
    for model, more in ((causal, ("--weights", "fp32")), (engine_file, ())):
        process, url = started(model, "--threads", 1, *more)
        body = {"prompt": "the spike", "max_tokens": 8, "seed": 1}
        texts.append(httpx.post(f"{url}/v1/completions", json=body).json()["choices"][0]["text"])
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        process.stderr.close()
    assert texts[0] == texts[1]


def test_neither_torch_nor_transformers_is_loaded_for_an_engine_file(engine_file: Path) -> None:
    script = (
        "import sys, threading, spikeformers\n"
        "from spikeformers.serving import ServeOptions\n"
        "from spikeformers.serving.server import Server\n"
        f"server = Server(ServeOptions({str(engine_file)!r}, port=0))\n"
        "def look():\n"
        "    import time\n"
        "    while not server.service.ready: time.sleep(0.01)\n"
        "    print(sorted({'torch', 'transformers'} & set(sys.modules)))\n"
        "    server.should_exit = True\n"
        "threading.Thread(target=look).start()\n"
        "server.run()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )
    assert ended.stdout == "[]\n", ended.stderr


def test_the_key_may_come_from_the_environment(engine_file: Path) -> None:
    process, url = started(engine_file, SPIKEFORMERS_API_KEY="of-the-environment")
    assert httpx.get(f"{url}/v1/models").status_code == 401
    headers = {"Authorization": "Bearer of-the-environment"}
    assert httpx.get(f"{url}/v1/models", headers=headers).status_code == 200
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    process.stderr.close()


def test_what_cannot_be_served_is_refused(
    spikeformers: Any, engine_file: Path, masked: Path, tmp_path: Path
) -> None:
    before = time.monotonic()
    ended = spikeformers("serve", tmp_path / "none", "--port", 0)
    assert ended.code == 1
    assert "there is no model at" in ended.err
    ended = spikeformers("serve", masked, "--port", 0)
    assert ended.code == 2
    assert "the engine runs" in ended.err
    ended = spikeformers("serve", engine_file, "--port", 0, "--context", 100_000)
    assert ended.code == 2
    assert "--context is 100000" in ended.err
    ended = spikeformers("serve", engine_file, "--host", "0.0.0.0", "--port", 0)
    assert ended.code == 2
    assert "--api-key" in ended.err
    ended = spikeformers("serve", engine_file, "--host", "no.such.host.invalid", "--no-auth")
    assert ended.code == 2
    assert "cannot listen on" in ended.err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = spikeformers("serve", engine_file, "--port", taken.getsockname()[1])
    assert ended.code == 2
    assert "Choose another with --port" in ended.err
    assert time.monotonic() - before < 60


def test_without_the_extra_it_says_what_to_install(
    spikeformers: Any, engine_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    find = importlib.util.find_spec
    hidden = ("fastapi", "uvicorn")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name in hidden else find(name)
    )
    ended = spikeformers("serve", engine_file)
    assert ended.code == 2
    assert "the server needs fastapi, uvicorn" in ended.err
    assert "pip install 'spikeformers[serve]'" in ended.err


def test_the_help_names_the_extra_in_its_brackets(spikeformers: Any) -> None:
    assert "pip install 'spikeformers[serve]'" in spikeformers("serve", "--help").out
