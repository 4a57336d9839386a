"""A tiny engine file with a chat template, and servers of it in this process."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")
pytest.importorskip("spikeformers.kernels._native")

import httpx
import torch

from spikeformers.data import load_corpus, make_tokenizer
from spikeformers.engine import Engine, load, write
from spikeformers.export import pack
from spikeformers.models import build_config, build_model
from spikeformers.serving.options import ServeOptions
from spikeformers.serving.server import Server

TEMPLATE = """{% for message in messages %}
{% if message['role'] == 'refused' or message['content'] == 'raise' %}
{{ raise_exception('this template refuses it') }}
{% endif %}
<{{ message['role'] }}>{{ message['content'] }}{{ eos_token }}
{% endfor %}
{% if add_generation_prompt %}<assistant>{% endif %}"""
SHAPE = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 320,
}  # fmt: skip
Start = Callable[..., Any]


def make_model(folder: Path, template: str | None = TEMPLATE, **overrides: Any) -> tuple[Any, Any]:
    """A small model with random weights, and a byte-level tokenizer."""
    source = folder / "text.txt"
    source.write_text("a spike wins or loses, and the neuron is quiet\n" * 50)
    tokenizer = make_tokenizer("byte", load_corpus(str(source)))
    tokenizer.chat_template = template
    torch.manual_seed(3)
    config = build_config("wd-spikingformer-tiny", len(tokenizer), SHAPE | overrides)
    model = build_model(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.endswith("amplitude"):
                parameter += 0.3 * torch.randn_like(parameter)
    return model, tokenizer


@pytest.fixture(scope="session")
def engine_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny.engine, with a chat template."""
    folder = tmp_path_factory.mktemp("serving")
    path = folder / "tiny.engine"
    write(pack(*make_model(folder), "int8"), path)
    return path


@pytest.fixture(scope="session")
def engine(engine_file: Path) -> Engine:
    """The same model outside of any server."""
    return load(engine_file, threads=1)


class Running:
    """A server in a thread of this process."""

    def __init__(self, options: ServeOptions) -> None:
        self.messages: list[str] = []
        self.server = Server(options, self.messages.append)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        self.url = self.server.address
        self.service = self.server.service
        deadline = time.monotonic() + 60
        while not self.service.ready and self.server.error is None:
            assert time.monotonic() < deadline, "the server did not become ready"
            time.sleep(0.005)
        headers = {"Authorization": f"Bearer {options.api_key}"} if options.api_key else {}
        self.http = httpx.Client(base_url=self.url, headers=headers, timeout=60)

    @property
    def scheduler(self) -> Any:
        return self.service.scheduler

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.http.post(path, json=body)

    def complete(self, prompt: Any, **body: Any) -> Any:
        """The answer of /v1/completions, which must be there."""
        response = self.post("/v1/completions", prompt=prompt, **body)
        assert response.status_code == 200, response.text
        return response.json()

    def stream(self, path: str, **body: Any) -> list[Any]:
        """Chunks of a stream, which must end with [DONE]."""
        with self.http.stream("POST", path, json=body | {"stream": True}) as response:
            assert response.status_code == 200, response.read()
            assert response.headers["content-type"].startswith("text/event-stream")
            lines = [line for line in response.iter_lines() if line]
        assert all(line.startswith("data: ") for line in lines)
        assert lines[-1] == "data: [DONE]"
        return [json.loads(line[6:]) for line in lines[:-1]]

    def wait_until_idle(self, seconds: float = 10.0) -> None:
        deadline = time.monotonic() + seconds
        while self.scheduler.active or self.scheduler.waiting:
            assert time.monotonic() < deadline, "texts are still being written"
            time.sleep(0.005)

    def stop(self) -> None:
        self.http.close()
        self.server.should_exit = True
        self.thread.join(30)
        assert not self.thread.is_alive()


@pytest.fixture(scope="session")
def start(engine_file: Path) -> Start:
    """``with start(slots=2) as running``: a server with these options."""

    @contextmanager
    def run(**options: Any) -> Iterator[Running]:
        chosen: dict[str, Any] = {"port": 0, "threads": 1, "grace": 0.2} | options
        running = Running(ServeOptions(chosen.pop("model", engine_file), **chosen))
        try:
            yield running
        finally:
            running.stop()

    return run


@pytest.fixture(scope="module")
def running(start: Start) -> Iterator[Running]:
    """A server with eight slots."""
    with start() as server:
        yield server
