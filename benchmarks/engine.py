"""The engine's figures: kernels and a GPT-2-small-shaped model at given densities, beside peers.

    python benchmarks/engine.py [--parts model,attention,products,context,memory,threads]
                                [--threads 1] [--json benchmarks/results/engine.json]
    python benchmarks/engine.py --parts trained --data TEXT --model NAME=FOLDER --model ...

Spikes here are made up: random weights, and norms whose bias is set so that a neuron fires with the
wanted probability. So this is a curve of speed over density; `trained` times trained models, each
at the density that it has, with its bits per byte beside it. Systems take turns, medians are taken.
Beside the wall clock stands the process's processor time, which other programs on a shared machine
disturb less; with more threads than one it counts those that wait, too. llama.cpp and CTranslate2
are timed where they are installed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import torch

from _sweep import commit
from _trained import trained
from spikeformers import kernels
from spikeformers.engine import Engine, EngineSystem, write
from spikeformers.evaluation.memory import (
    Resident,
    resident_of_engine,
    resident_of_llama,
    resident_of_model,
)
from spikeformers.evaluation.peers import PEERS, builds, running, usable
from spikeformers.evaluation.systems import TorchSystem, time_systems
from spikeformers.export import pack
from spikeformers.meters import Seconds, clock
from spikeformers.models import (
    WDSpikingformerConfig,
    WDSpikingformerForCausalLM,
    build_model,
    control_of,
)
from spikeformers.storage import write_text
from spikeformers.studies.machine import machine, versions

DENSITIES = (0.05, 0.1, 0.15, 0.2, 0.3)
LENGTHS = (512, 1024, 2048, 4096, 8192, 16384)
DENSE_ATTENTION = "pytorch sdpa fp32"
DRAW = np.random.default_rng(0)
Keep = Callable[[str, dict[str, Any]], None]


def random_model(density: float, **config: Any) -> WDSpikingformerForCausalLM:
    """A model whose neurons fire with probability ``density``: P(gain * z + bias > 1/2)."""
    torch.manual_seed(0)
    model = WDSpikingformerForCausalLM(WDSpikingformerConfig(**config)).eval()
    bias = 0.5 - NormalDist().inv_cdf(1 - density)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.bias.fill_(bias)
    return model


def counts(shape: tuple[int, ...], density: float, levels: int) -> np.ndarray:
    """Random counts; most that fire do so once, as in trained models."""
    fired = DRAW.random(shape) < density
    return (fired * np.minimum(1 + DRAW.poisson(0.7, shape), levels)).astype(np.int8)


def median_seconds(work: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median wall and processor seconds, after one run that is not timed."""
    work()
    times = [clock(work) for _ in range(repeats)]
    return statistics.median(t.wall for t in times), statistics.median(t.cpu for t in times)


def repeated(work: Callable[[], object], times: int) -> None:
    """Do it so often."""
    for _ in range(times):
        work()


def whole_model(threads: int, repeats: int, keep: Keep) -> dict[str, Any]:
    """Decode and prefill of 12 x 768, vocabulary 50,257; dense peers are timed at every density."""
    ids = DRAW.integers(0, 50257, 512 + 24).tolist()
    record: dict[str, Any] = {}
    config = WDSpikingformerConfig()
    twin = TorchSystem(build_model(control_of(config)))
    with running(config, threads) as peers:
        for density in DENSITIES:
            model = random_model(density)
            engines = {
                f"engine-{kind}": Engine(pack(model, None, kind), threads=threads)
                for kind in ("int8", "int4", "fp32")
            }
            systems: dict[str, Any] = {n: EngineSystem(e) for n, e in engines.items()} | peers
            if density == 0.15:
                systems |= {"dense-twin": twin, "pytorch": TorchSystem(model)}
            prefill, decode = time_systems(systems, ids, prompt_tokens=512, repeats=repeats)
            row: dict[str, Any] = {}
            for what, timings in (("decode", decode), ("prefill", prefill)):
                row[what] = {name: timing.as_dict() for name, timing in timings.items()}
                ours = timings["engine-int8"]
                row[f"{what}_ratios"] = {
                    name: ours.tokens_per_second / timing.tokens_per_second
                    for name, timing in timings.items()
                }
                row[f"{what}_cpu_ratios"] = {
                    name: ours.cpu_tokens_per_second / timing.cpu_tokens_per_second
                    for name, timing in timings.items()
                }
            counted = engines["engine-int8"].counters()
            row["density"] = counted["events"] / counted["neurons"]
            record[str(density)] = row
            keep("model", record)
            tell(f"12 x 768 at {density}", row)
    return record


def tell(title: str, row: dict[str, Any]) -> None:
    print(f"{title} (measured density {row['density']:.3f})")
    for what in ("decode", "prefill"):
        for name, timing in row[what].items():
            print(
                f"  {what:8s}{name:18s}{timing['tokens_per_second']:9.1f} tokens/s "
                f"{timing['cpu_tokens_per_second']:9.1f} by processor time; engine-int8 is "
                f"x{row[f'{what}_ratios'][name]:.2f}, x{row[f'{what}_cpu_ratios'][name]:.2f}",
                flush=True,
            )


def attention(threads: int, repeats: int) -> dict[str, Any]:
    """Causal pairs per second of one head of 64 by length, beside PyTorch's at the same length."""
    by_length: dict[str, Any] = {}
    dense = torch.nn.functional.scaled_dot_product_attention
    scale = np.ones(1, np.float32)
    for tokens in LENGTHS:
        pairs = tokens * tokens / 2e9
        q, k, v = torch.randn(3, 1, 1, tokens, 64)
        work: dict[str, Callable[[], object]] = {
            DENSE_ATTENTION: partial(dense, q, k, v, is_causal=True)
        }
        for levels in (1, 16):
            for density in (0.05, 0.1, 0.2, 0.3):
                spikes = [counts((tokens, 64), density, levels) for _ in range(3)]
                for name, winners in (("hard", 1), ("top-3", 3)):
                    given = {"scale": scale, "winners": winners, "levels": levels}
                    work[f"{name}, {levels} level(s), density {density}"] = partial(
                        kernels.attend, *spikes, heads=1, threads=threads, unit=1 / levels, **given
                    )
        calls = max(1, round(4096**2 / tokens**2))  # so that a short text is timed long enough
        rates = {}
        for name, attend in work.items():
            wall, cpu = median_seconds(partial(repeated, attend, calls), repeats)
            rates[name] = {"wall": pairs * calls / wall, "cpu": pairs * calls / cpu}
        by_length[str(tokens)] = rates
        print(f"{tokens:,} tokens")
        for name, rate in rates.items():
            ratio = rate["cpu"] / rates[DENSE_ATTENTION]["cpu"]
            print(
                f"  {name:34s}{rate['wall']:7.2f} G pairs/s {rate['cpu']:7.2f} by processor time, "
                f"x{ratio:.1f} of PyTorch",
                flush=True,
            )
    return by_length


def products(threads: int, repeats: int) -> dict[str, Any]:
    """One token's product over density, beside PyTorch's dense fp32 product."""
    record: dict[str, Any] = {}
    for inputs, outputs in ((768, 3072), (3072, 768), (768, 50257), (4096, 4096)):
        # Twice what a last-level cache holds, in turns, so that weights come from memory.
        copies = max(1, (96 << 20) // (inputs * outputs * 4))
        real = [DRAW.standard_normal((inputs, outputs), np.float32) for _ in range(copies)]
        whole = [np.clip(m * 40, -127, 127).astype(np.int8) for m in real]
        turned = [torch.from_numpy(m).T.contiguous() for m in real]
        scale = np.ones(outputs, np.float32)
        x = torch.randn(1, inputs)

        def each(work: Callable[[int], object], copies: int = copies) -> tuple[float, float]:
            wall, cpu = median_seconds(lambda: [work(i) for i in range(copies)], repeats)
            return wall / copies, cpu / copies

        def dense(i: int, x: Any = x, turned: Any = turned) -> object:
            return torch.nn.functional.linear(x, turned[i])

        def sparse(i: int, spikes: Any, matrices: Any, scale: Any) -> object:
            return kernels.product(spikes, matrices[i], scale, threads=threads)

        by_torch = each(dense)
        for density in DENSITIES:
            spikes = counts((1, inputs), density, 16)
            row = {}
            for name, matrices, given in (("fp32", real, None), ("int8", whole, scale)):
                wall, cpu = each(partial(sparse, spikes=spikes, matrices=matrices, scale=given))
                row[name] = {"wall": by_torch[0] / wall, "cpu": by_torch[1] / cpu, "seconds": cpu}
            record[f"{inputs} x {outputs}, density {density}"] = row
            print(
                f"{inputs:5d} x {outputs:5d} at {density:4.2f}: fp32 x{row['fp32']['cpu']:.1f}, "
                f"int8 x{row['int8']['cpu']:.1f} of dense fp32 (processor time)",
                flush=True,
            )
    return record


def context(threads: int, tokens: int) -> dict[str, Any]:
    """Decoding far into a text: no bias, so that every page counts; the dense caches are fp16."""
    from transformers import DynamicCache

    steps = 8
    model = random_model(0.15, position="none", max_position_embeddings=tokens + 2 * steps)
    config = model.config
    engine = Engine(pack(model, None, "int8"), threads=threads)
    ids = DRAW.integers(0, 50257, tokens).tolist()
    text = engine.sequence()
    engine.feed(text, ids)
    twin = build_model(control_of(config)).half().eval()
    cache = DynamicCache(config=twin.config)
    for layer in range(config.num_hidden_layers):
        keys = torch.randn(1, config.num_attention_heads, tokens, 64).half()
        cache.update(keys, keys, layer)
    five = torch.tensor([[5]])
    systems: dict[str, Callable[[], object]] = {
        "engine-int8": lambda: engine.advance(text, 5),
        "pytorch fp16": lambda: twin(input_ids=five, past_key_values=cache, use_cache=True),
    }
    names = [name for name in PEERS if name.startswith("llama.cpp-q8_0")]
    with running(config, threads, names) as peers, torch.inference_mode():
        for name, peer in peers.items():
            peer.begin(ids)
            systems[name] = partial(peer.step, 5)
        took: dict[str, list[Seconds]] = {name: [] for name in systems}
        for turn in range(steps):
            for name, work in systems.items():
                if name.startswith("pytorch") and turn % 4:
                    continue  # slow, and not what counts
                took[name].append(clock(work))
    seconds = {
        name: [statistics.median(times) for times in zip(*pairs[1:], strict=True)]
        for name, pairs in took.items()
    }
    ours = seconds["engine-int8"]
    record = {
        "tokens": tokens,
        "results": {name: {"wall": 1 / s[0], "cpu": 1 / s[1]} for name, s in seconds.items()},
        "ratios": {n: {"wall": s[0] / ours[0], "cpu": s[1] / ours[1]} for n, s in seconds.items()},
        "cache_bytes_per_token": text.bytes / text.tokens,
        "fp16_cache_bytes_per_token": 4 * config.hidden_size * config.num_hidden_layers,
    }
    print(json.dumps(record, indent=2), flush=True)
    return record


def memory(threads: int) -> dict[str, Any]:
    """Peak resident bytes of a process that opened the model and wrote 32 tokens."""
    model = random_model(0.15)
    measured: dict[str, tuple[Resident, int | None]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("int8", "int4"):
            file = Path(folder) / kind
            size = write(pack(model, None, kind), file)
            measured[f"engine-{kind}"] = (resident_of_engine(file, threads), size)
        twin = build_model(control_of(model.config))
        twin.save_pretrained(folder)
        size = sum(p.numel() * p.element_size() for p in twin.parameters())
        measured["dense-twin"] = (resident_of_model(Path(folder), threads), size)
    for quantization in ("Q8_0", "Q4_0"):
        peer = f"llama.cpp-{quantization.lower()}"
        if usable(peer, model.config):
            resident = resident_of_llama(model.config, threads, quantization)
            measured[peer] = (resident, None)
    rows: dict[str, Any] = {}
    for name, (resident, size) in measured.items():
        share = resident.total / measured["dense-twin"][0].total
        rows[name] = {
            "resident_bytes": resident.total,
            "library_bytes": resident.libraries,
            "weight_bytes": size,
            "of dense-twin": share,
        }
        print(
            f"{name:16s}{resident.total / 2**20:8.0f} MiB, of which libraries "
            f"{resident.libraries / 2**20:.0f}; {share:.3f} of the dense twin's"
        )
    return rows


def more_threads(repeats: int) -> dict[str, Any]:
    """Decoding at 0.15 with one thread, one a processor, and four a processor, in turns."""
    packed = pack(random_model(0.15), None, "int8")
    cores = kernels.native().processors()
    systems = {
        str(threads): EngineSystem(Engine(packed, threads=threads))
        for threads in sorted({1, cores, 4 * cores})
    }
    ids = DRAW.integers(0, 50257, 128 + 32).tolist()
    _, decode = time_systems(systems, ids, prompt_tokens=128, repeats=repeats)
    for threads, timing in decode.items():
        print(
            f"{threads} thread(s): {timing.tokens_per_second:.0f} tokens/s, "
            f"{timing.cpu_tokens_per_second:.0f} by processor time"
        )
    return {threads: timing.as_dict() for threads, timing in decode.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default="model,attention,products,context")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--context", type=int, default=32768)
    parser.add_argument("--model", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--data", help="Text whose validation split scores and feeds --model.")
    parser.add_argument(
        "--json", type=Path, help="Keep the result; parts not run stay as they are."
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"kernels: {kernels.choose()}; {args.threads} thread(s)")

    def keep(part: str, result: dict[str, Any]) -> None:
        if args.json is None:
            return
        kept = json.loads(args.json.read_text()) if args.json.is_file() else {}
        here = {"machine": machine() | {"threads": None}, "kernels": str(kernels.choose())}
        if kept and {key: kept[key] for key in here} != here:
            raise SystemExit(
                f"{args.json} is of another machine ({kept['machine']}); name another."
            )
        kept |= here | {"versions": versions(), "peers": builds(), "commit": commit()}
        kept.setdefault(f"threads {args.threads}", {})[part] = result
        write_text(args.json, json.dumps(kept, indent=2) + "\n")

    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "model": lambda: whole_model(args.threads, args.repeats, keep),
        "attention": lambda: attention(args.threads, args.repeats),
        "products": lambda: products(args.threads, args.repeats),
        "context": lambda: context(args.threads, args.context),
        "memory": lambda: memory(args.threads),
        "threads": lambda: more_threads(args.repeats),
        "trained": lambda: trained(args.model, args.data, args.threads, args.repeats),
    }
    for part in args.parts.split(","):
        keep(part, parts[part]())


if __name__ == "__main__":
    main()
