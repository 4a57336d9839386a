"""The server under load: tokens per second and time to the first token at 1, 8 and 64 clients.

    python benchmarks/serve.py [--shape small|tiny] [--density 0.15] [--threads 2]
        [--clients 1,8,64] [--prompt-tokens 64] [--new-tokens 32] [--requests 4] [--repeats 3]
        [--json benchmarks/results/serve.json]

A model of GPT-2 small's shape (or a tiny one) with random weights and norms set so that a neuron
fires with probability ``--density``, in int8, is served by `spikeformers serve`; a dense GPT-2 of
the same shape in Q8_0 by ``llama-server`` where it is on the path, and by llama-cpp-python's server
where that is installed (its extra ``server``), which runs one request at a time. Every client sends
``--requests`` streamed completions of distinct prompts, one after the other; all prompts have the
same number of tokens, and every answer the same number of new ones, at temperature 0. Systems take
turns, medians of ``--repeats`` runs are taken; all figures are measured, by a client in a process
of its own. Beside other work they are worth nothing: run it on an idle machine.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from _sweep import commit, fill_pages
from engine import random_model
from spikeformers.engine import write
from spikeformers.evaluation.peers import builds, write_gpt2_gguf
from spikeformers.export import pack
from spikeformers.reporting.tables import markdown
from spikeformers.storage import write_text
from spikeformers.studies.machine import machine

SHAPES: dict[str, dict[str, int]] = {
    "small": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
              "intermediate_size": 3072, "vocab_size": 50257, "max_position_embeddings": 1024},
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
             "intermediate_size": 128, "vocab_size": 512, "max_position_embeddings": 256},
}  # fmt: skip
LLAMA_SERVER_MODULES = (
    "llama_cpp",
    "gguf",
    "starlette_context",
    "pydantic_settings",
    "sse_starlette",
)
READY_SECONDS = 300
END = "0"  # the peer's end token, which it may not draw


@dataclass
class Answer:
    """One streamed answer: seconds until its first token and until its end."""

    first: float
    seconds: float


def byte_vocabulary(size: int) -> list[str]:
    """A token per byte, as GPT-2 spells them, then numbered ones; the first is the end token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return ["<end>", *alphabet, *(f"t{number}" for number in range(size - len(alphabet) - 1))]


def tokenizer_of(vocabulary: list[str]) -> PreTrainedTokenizerFast:
    """A tokenizer in which a text has a token per byte."""
    rules = Tokenizer(models.BPE({token: place for place, token in enumerate(vocabulary)}, []))
    rules.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rules.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=rules)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def process(command: list[object], url: str, health: str) -> Iterator[str]:
    """A server in a process of its own, once ``health`` answers 200."""
    words = list(map(str, command))
    running = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + READY_SECONDS
        while True:
            if running.poll() is not None:
                raise SystemExit(f"{words[0]} ended with {running.returncode}: {' '.join(words)}")
            try:
                if httpx.get(url + health).status_code == 200:
                    break
            except httpx.TransportError:
                pass
            if time.monotonic() > deadline:
                raise SystemExit(f"not ready after {READY_SECONDS} s: {' '.join(words)}")
            time.sleep(0.05)
        yield url
    finally:
        running.terminate()
        try:
            running.wait(20)
        except subprocess.TimeoutExpired:
            running.kill()


async def client(http: httpx.AsyncClient, prompts: list[str], body: dict[str, Any]) -> list[Answer]:
    """One client's answers, each streamed to its end."""
    answers = []
    for prompt in prompts:
        began, first, finish = time.perf_counter(), None, None
        async with http.stream("POST", "/v1/completions", json=body | {"prompt": prompt}) as stream:
            stream.raise_for_status()
            async for line in stream.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                if first is None:
                    first = time.perf_counter() - began
                finish = json.loads(line[6:])["choices"][0]["finish_reason"] or finish
        if first is None or finish != "length":
            raise SystemExit(f"an answer ended early: {finish}")
        answers.append(Answer(first, time.perf_counter() - began))
    return answers


async def measure(url: str, clients: int, arguments: argparse.Namespace) -> dict[str, float]:
    """Figures of one run. Prompts differ, and none was sent before."""
    letters = "abcdefghijklmnopqrsuvwxyz "  # no t, so that the peer's one merge is not met

    def prompt() -> str:
        return "".join(random.choices(letters, k=arguments.prompt_tokens))

    body: dict[str, Any] = {"max_tokens": arguments.new_tokens, "temperature": 0, "stream": True}
    body["logit_bias"] = {END: -100}
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=url, timeout=3600, limits=limits) as http:
        began = time.perf_counter()
        work = [
            client(http, [prompt() for _ in range(arguments.requests)], body)
            for _ in range(clients)
        ]
        answers = [answer for each in await asyncio.gather(*work) for answer in each]
        seconds = time.perf_counter() - began
    firsts = sorted(answer.first for answer in answers)
    return {
        "new_tokens_per_second": len(answers) * arguments.new_tokens / seconds,
        "time_to_first_token_median_s": statistics.median(firsts),
        "time_to_first_token_p95_s": firsts[min(len(firsts) - 1, int(0.95 * len(firsts)))],
        "request_median_s": statistics.median(answer.seconds for answer in answers),
    }


def systems(arguments: argparse.Namespace, folder: Path, stack: ExitStack) -> dict[str, str]:
    """Servers by name, which run until the stack is closed."""
    shape = SHAPES[arguments.shape]
    vocabulary = byte_vocabulary(shape["vocab_size"])
    model = random_model(arguments.density, **shape)
    write(pack(model, tokenizer_of(vocabulary), "int8"), folder / "model.engine")
    most = max(arguments.clients)
    python, threads = sys.executable, arguments.threads
    length = arguments.prompt_tokens + arguments.new_tokens

    def start(command: list[object], port: int, health: str) -> str:
        return stack.enter_context(process(command, f"http://127.0.0.1:{port}", health))

    port = free_port()
    ours: list[object] = [python, "-m", "spikeformers", "serve", folder / "model.engine"]
    ours += ["--port", port, "--threads", threads, "--slots", min(most, 64), "--max-queue", most]
    opened = {"spikeformers": start([*ours, "--prefix-cache", 0], port, "/health")}
    gguf = folder / "twin.gguf"
    if not arguments.peers:
        return opened
    if importlib.util.find_spec("gguf") is not None:
        write_gpt2_gguf(model.config, gguf, "Q8_0", vocabulary)
    if gguf.exists() and (binary := shutil.which("llama-server")):
        port, slots = free_port(), min(most, 64)
        command: list[object] = [binary, "-m", gguf, "--port", port, "-t", threads, "-np", slots]
        command += ["-c", slots * (length + 8), "-tb", threads]
        opened["llama-server q8_0"] = start(command, port, "/health")
    if all(map(importlib.util.find_spec, LLAMA_SERVER_MODULES)):
        port = free_port()
        command = [python, "-m", "llama_cpp.server", "--model", gguf, "--port", port]
        command += ["--n_threads", threads, "--n_threads_batch", threads, "--n_ctx", length + 8]
        command += ["--interrupt_requests", "False", "--verbose", "False"]
        opened["llama-cpp-python q8_0"] = start(command, port, "/v1/models")
    return opened


def table(report: dict[str, Any]) -> str:
    """A line per server and number of clients, as Markdown."""
    setting, rows = report["setting"], []
    for name, by_clients in report["results"].items():
        for clients, figures in by_clients.items():
            rows.append(
                [
                    name,
                    clients.split()[0],
                    f"{figures['new_tokens_per_second']:.0f}",
                    f"{figures['time_to_first_token_median_s']:.2f}",
                    f"{figures['time_to_first_token_p95_s']:.2f}",
                ]
            )
    note = (
        f"GPT-2 small's shape, spiking at a density of {setting['density']}, int8, beside a dense "
        f"model of that shape in Q8_0; prompts of {setting['prompt_tokens']} tokens, "
        f"{setting['new_tokens']} new ones, {setting['requests']} per client, medians of "
        f"{setting['repeats']} runs; {setting['threads']} threads beside the client's process, "
        f"{report['machine']['cores']} cores of {report['machine']['processor']}; commit "
        f"{report['commit']}. llama-cpp-python's server runs one request at a time. Measured."
    )
    columns = ["server", "clients", "new tokens/s", "first token, s, median", "95th per cent"]
    return f"{markdown(columns, rows)}\n{note}\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--density", type=float, default=0.15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--clients", type=lambda text: [*map(int, text.split(","))], default=[1, 8, 64]
    )
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--requests", type=int, default=4, help="per client")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-peers", dest="peers", action="store_false")
    parser.add_argument("--json", type=Path, help="Keep the result; fills docs/results/ too.")
    arguments = parser.parse_args()
    runs: dict[tuple[str, int], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        opened = systems(arguments, Path(folder), stack)
        for url in opened.values():  # a warm-up that does not count
            asyncio.run(measure(url, 1, arguments))
        for clients in arguments.clients:
            for repeat in range(arguments.repeats):
                for name, url in opened.items():
                    random.seed(1000 * clients + repeat)  # the same prompts for every system
                    figures = asyncio.run(measure(url, clients, arguments))
                    runs.setdefault((name, clients), []).append(figures)
                    print(f"{name}, {clients} clients: {json.dumps(figures)}", flush=True)
    results: dict[str, dict[str, dict[str, float]]] = {}
    for (name, clients), all_figures in runs.items():
        medians = {
            key: statistics.median(figures[key] for figures in all_figures)
            for key in all_figures[0]
        }
        results.setdefault(name, {})[f"{clients} clients"] = medians
    setting = {key: getattr(arguments, key) for key in
               ("shape", "density", "threads", "prompt_tokens", "new_tokens", "requests",
                "repeats")}  # fmt: skip
    report = {"results": results, "setting": setting, "machine": machine(), "peers": builds(),
              "commit": commit(), "label": "measured"}  # fmt: skip
    if arguments.json is not None:
        write_text(arguments.json, json.dumps(report, indent=1) + "\n")
        fill_pages("serve", table(report))
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
