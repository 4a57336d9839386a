"""Time of a training step: spiking model against its dense twin, interleaved in one run.

    python benchmarks/train_step.py [--preset wd-spikingformer-tiny] [--context 128] [--batch 16]

Prints medians and ratios of the clock and of processor time, which other processes disturb less;
``--json FILE`` keeps them. The issue's bar: NI-LIF 1x4 at most 1.3x of the dense twin on CPU.
Measured, not estimated; ratios hold within one run only.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from pathlib import Path

import torch
from transformers import PreTrainedModel

from spikeformers.meters import Seconds, Stopwatch
from spikeformers.models import build_config, build_model, control_of
from spikeformers.storage import write_text


def step(model: PreTrainedModel, optimizer: torch.optim.Optimizer, ids: torch.Tensor) -> Seconds:
    """Seconds of one forward, backward and AdamW update."""
    watch = Stopwatch()
    optimizer.zero_grad(set_to_none=True)
    model(input_ids=ids, labels=ids).loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return watch.read()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="wd-spikingformer-tiny")
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--compile", action="store_true", help="time torch.compile of each as well")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    base = build_config(args.preset, args.vocab)
    of_ni_lif = {
        "hard": {},
        "hard, 1x4": {"levels": 4},
        "top-3": {"wta": "top_k"},
        "spiking softmax": {"attention": "softmax"},
        "ssa": {"attention": "ssa"},
    }
    variants = {
        "dense twin": control_of(base),
        "dead zones": base,
        **{
            f"NI-LIF, {name}": build_config(
                args.preset, args.vocab, {"neuron": "ni-lif", **options}
            )
            for name, options in of_ni_lif.items()
        },
    }
    models = {name: build_model(config).train() for name, config in variants.items()}
    if args.compile:
        for name in ("dense twin", "dead zones", "NI-LIF, hard"):
            model = build_model(variants[name]).train()
            model.compile()
            models[f"{name}, compiled"] = model
    optimizers = {n: torch.optim.AdamW(m.parameters(), fused=True) for n, m in models.items()}
    ids = torch.randint(0, args.vocab, (args.batch, args.context))
    times: dict[str, list[Seconds]] = {name: [] for name in models}
    for repeat in range(args.repeats + 3):
        for name, model in models.items():
            seconds = step(model, optimizers[name], ids)
            if repeat >= 3:
                times[name].append(seconds)

    clock, processor = (
        {name: statistics.median(t[kind] for t in taken) for name, taken in times.items()}
        for kind in (0, 1)
    )
    clock_ratio, processor_ratio = (
        {name: median / medians["dense twin"] for name, median in medians.items()}
        for medians in (clock, processor)
    )
    print(
        f"{args.preset}, vocabulary {args.vocab}, batch {args.batch} x {args.context}, "
        f"{args.threads} thread(s), torch {torch.__version__}, {platform.machine()}"
    )
    for name in models:
        taken = [t[0] * 1e3 for t in times[name]]
        print(
            f"{name:24s} {clock[name] * 1e3:8.1f} ms  ({min(taken):.0f}-{max(taken):.0f})   "
            f"x{clock_ratio[name]:.2f}   processor {processor[name] * 1e3:8.1f} ms   "
            f"x{processor_ratio[name]:.2f}"
        )
    if args.json:
        result = {
            "setting": {k: v for k, v in vars(args).items() if k != "json"},
            "torch": torch.__version__,
            "machine": platform.machine(),
            "median_seconds": clock,
            "ratio_to_dense": clock_ratio,
            "median_processor_seconds": processor,
            "processor_ratio_to_dense": processor_ratio,
        }
        write_text(args.json, json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
