"""``spikeformers bench``: the engine beside PyTorch, the dense twin and other programs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spikeformers.cli._options import Json, Model
from spikeformers.values import MOST_THREADS

if TYPE_CHECKING:
    from spikeformers.cli._bench import Bench

Threads = Annotated[int, typer.Option(min=1, max=MOST_THREADS, help="Threads of every system.")]
Prompt = Annotated[int, typer.Option(min=1, help="Tokens of the prompt.")]
Repeats = Annotated[int, typer.Option(min=1, help="Timed turns, after one that is not.")]
Peers = Annotated[bool, typer.Option(help="Time other installed programs too.")]


def decode(
    model: Model,
    threads: Threads = 1,
    prompt_tokens: Prompt = 32,
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens appended one by one.")] = 64,
    repeats: Repeats = 5,
    peers: Peers = True,
    as_json: Json = False,
) -> None:
    """Tokens per second one by one, batch 1.

    The engine in int8, int4 and fp32, the same model in PyTorch, its dense twin in Transformers,
    and a dense GPT-2 of its shape in llama.cpp (Q8_0 and Q4_0, each with and without flash
    attention) where llama-cpp-python and gguf are installed, and in CTranslate2 (int8) where
    ctranslate2 is. The twins have random weights, which speed does not depend on. The text is what
    the model itself writes, so that its density is that of a text. Systems take turns; medians.

    JSON: results (by system: tokens_per_second, slowest, fastest, cpu_tokens_per_second,
    milliseconds p50 p90 p99; the engine too: density, weight_bytes_per_token,
    cache_bytes_read_per_token, cache_bytes_per_token), ratios (engine-int8 to each, by the wall
    clock), cpu_ratios (by processor time), what, model, threads, prompt_tokens, new_tokens,
    repeats, kernels, machine, peers (how each was built).
    """
    with _bench(model, threads, prompt_tokens, new_tokens, repeats, peers) as bench:
        result = bench.timed("decode")
    _tell(result, as_json)


def prefill(
    model: Model,
    threads: Threads = 1,
    prompt_tokens: Prompt = 128,
    repeats: Repeats = 5,
    peers: Peers = True,
    as_json: Json = False,
) -> None:
    """Tokens per second of reading a prompt; systems and JSON as for decode."""
    with _bench(model, threads, prompt_tokens, 0, repeats, peers) as bench:
        result = bench.timed("prefill")
    _tell(result, as_json)


def memory(model: Model, threads: Threads = 1, as_json: Json = False) -> None:
    """Resident memory of a process that opened a model and wrote 32 tokens.

    Each system in a process of its own: the engine from its file, PyTorch and the dense twin from a
    model folder, llama.cpp (Q8_0) where it is installed. Interpreter and libraries are included,
    because a user pays for them, and said apart.

    JSON: results (by system: resident_bytes, library_bytes, weight_bytes), ratios (engine-int8 to
    each), what, model, threads, machine.
    """
    with _bench(model, threads, 8, 24, 1, True) as bench:
        result = bench.memory()
    _tell(result, as_json)


@contextmanager
def _bench(
    model: Path, threads: int, prompt_tokens: int, new_tokens: int, repeats: int, peers: bool
) -> Iterator[Bench]:
    """The bench, and how far it is while it is at work."""
    from spikeformers.cli._bench import Bench
    from spikeformers.cli._output import start
    from spikeformers.kernels import choose
    from spikeformers.progress import Progress

    choose()
    start(verbose=False)
    with Progress() as progress:
        yield Bench(model, threads, prompt_tokens, new_tokens, repeats, peers, progress)


def _tell(result: dict[str, Any], as_json: bool) -> None:
    from spikeformers.cli._output import make_table, print_json, print_table, say

    if as_json:
        print_json(result)
        return
    rows: list[tuple[str, ...]] = []
    for name, found in result["results"].items():
        if "resident_bytes" in found:
            size = f"{found['resident_bytes'] / 2**20:,.0f} MiB"
            libraries = f"{found['library_bytes'] / 2**20:,.0f} MiB"
            rows.append((name, size, libraries, f"{result['ratios'][name]:.2f}"))
            continue
        rows.append(
            (
                name,
                f"{found['tokens_per_second']:,.1f}",
                f"{found['slowest']:,.1f} to {found['fastest']:,.1f}",
                f"{found['cpu_tokens_per_second']:,.1f}",
                f"{result['ratios'][name]:.2f}",
                f"{result['cpu_ratios'][name]:.2f}",
            )
        )
    speed: tuple[str, ...] = (
        "",
        "tokens/s",
        "from to",
        "by CPU time",
        "engine-int8 is",
        "by CPU time",
    )
    columns = (
        speed
        if "cpu_ratios" in result
        else (*("", "resident", "of which libraries", "engine-int8 is"),)
    )
    print_table(make_table(f"{result['what']}, {result['threads']} thread(s)", columns, rows))
    if "density" in result["results"]["engine-int8"]:
        own = result["results"]["engine-int8"]
        say(
            f"density {own['density']:.3f}; read per token: "
            f"{own['weight_bytes_per_token']:,.0f} bytes of weights, "
            f"{own['cache_bytes_read_per_token']:,.0f} of cache; "
            f"cache: {own['cache_bytes_per_token']:,.0f} bytes a token",
            "dim",
        )
