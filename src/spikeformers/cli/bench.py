"""``spikeformers bench``: the engine against PyTorch, the dense twin and other programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from spikeformers.cli._options import Json, Model
from spikeformers.values import MOST_THREADS

if TYPE_CHECKING:
    from collections.abc import Callable

    from spikeformers.studies import BenchStudy

Threads = Annotated[int, typer.Option(min=1, max=MOST_THREADS, help="CPU threads per system.")]
Prompt = Annotated[int, typer.Option(min=1, help="Length of the prompt in tokens.")]
Repeats = Annotated[int, typer.Option(min=1, help="Timed repetitions after one warm-up.")]
Peers = Annotated[
    bool, typer.Option(help="Time other installed programs too (llama.cpp, CTranslate2).")
]


def decode(
    model: Model,
    threads: Threads = 1,
    prompt_tokens: Prompt = 32,
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to generate one by one.")] = 64,
    repeats: Repeats = 5,
    peers: Peers = True,
    as_json: Json = False,
) -> None:
    """Time token-by-token generation, batch 1, in tokens per second.

    Compared are the engine in int8, int4 and fp32, the same model in PyTorch, its dense twin in
    Transformers and in the engine (int8), a dense GPT-2 of its shape in llama.cpp (Q8_0 and Q4_0,
    each with and without flash attention) if llama-cpp-python and gguf are installed, and in
    CTranslate2 (int8) if ctranslate2 is. The twins have random weights, on which speed does not
    depend. The model reads text that it wrote itself, so its spike density is realistic. The
    systems take turns, and figures are medians. A dense model has no twin.

    JSON: results (by system: tokens_per_second, slowest, fastest, cpu_tokens_per_second,
    milliseconds p50 p90 p99; the engine too: density, weight_bytes_per_token, weight_share (of all
    weights' bytes), cache_bytes_read_per_token, cache_bytes_per_token, and microseconds of a token
    by part: products, neurons (and norms), attention, head, sampling, other), ratios (engine-int8
    to each, by the wall clock), cpu_ratios (by processor time), what, model, threads,
    prompt_tokens, new_tokens, repeats, kernels, machine, peers (how each was built).
    """
    from spikeformers.studies import bench_decode

    _bench(
        bench_decode, model, as_json, threads=threads, prompt_tokens=prompt_tokens,
        new_tokens=new_tokens, repeats=repeats, peers=peers,
    )  # fmt: skip


def prefill(
    model: Model,
    threads: Threads = 1,
    prompt_tokens: Prompt = 128,
    repeats: Repeats = 5,
    peers: Peers = True,
    as_json: Json = False,
) -> None:
    """Time the reading of a prompt in tokens per second; systems and JSON as for decode."""
    from spikeformers.studies import bench_prefill

    _bench(
        bench_prefill, model, as_json, threads=threads, prompt_tokens=prompt_tokens,
        repeats=repeats, peers=peers,
    )  # fmt: skip


def memory(model: Model, threads: Threads = 1, as_json: Json = False) -> None:
    """Measure the resident memory of a process that opened a model and ran 32 tokens.

    Each system runs in its own process: the engine from its file, PyTorch and the dense twin from
    a model folder, llama.cpp (Q8_0) if it is installed. Interpreter and libraries are included,
    because a user pays for them too, and also listed separately.

    JSON: results (by system: resident_bytes, library_bytes, weight_bytes), ratios (engine-int8 to
    each), what, model, threads, kernels, machine, peers.
    """
    from spikeformers.studies import bench_memory

    _bench(bench_memory, model, as_json, threads=threads)


def _bench(measure: Callable[..., BenchStudy], model: Model, as_json: bool, **options: Any) -> None:
    from spikeformers.cli._output import print_json, print_tables, say, start
    from spikeformers.export import pack
    from spikeformers.progress import Progress
    from spikeformers.reporting.bench_tables import bench_table, engine_reads

    start(verbose=False)
    with Progress() as progress:
        study = measure(model, pack, **options, progress=progress)
    if as_json:
        print_json(study.as_dict())
        return
    print_tables([bench_table(study)])
    if reads := engine_reads(study):
        say(reads, "dim")
