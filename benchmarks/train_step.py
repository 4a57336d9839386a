"""Time of a training step: spiking model against its dense twin, interleaved in one run.

    python benchmarks/train_step.py [--preset wd-spikingformer-tiny] [--context 128] [--batch 16]

Prints medians and ratios; ``--json FILE`` keeps them. The issue's bar: NI-LIF 1x4 at most 1.3x of
the dense twin on CPU. Measured, not estimated; ratios hold within one run only.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import torch
from transformers import PreTrainedModel

from spikeformers.models import build_config, build_model, control_of


def step(model: PreTrainedModel, optimizer: torch.optim.Optimizer, ids: torch.Tensor) -> float:
    """Seconds of one forward, backward and AdamW update."""
    start = time.perf_counter()
    optimizer.zero_grad(set_to_none=True)
    model(input_ids=ids, labels=ids).loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return time.perf_counter() - start


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
    variants = {
        "dense twin": control_of(base),
        "hard": base,
        "top-3": build_config(args.preset, args.vocab, {"wta": "top_k"}),
        "spiking softmax": build_config(args.preset, args.vocab, {"attention": "softmax"}),
        "ssa": build_config(args.preset, args.vocab, {"attention": "ssa"}),
    }
    models = {name: build_model(config).train() for name, config in variants.items()}
    if args.compile:
        for name in ("dense twin", "hard"):
            model = build_model(variants[name]).train()
            model.compile()
            models[f"{name}, compiled"] = model
    optimizers = {n: torch.optim.AdamW(m.parameters(), fused=True) for n, m in models.items()}
    ids = torch.randint(0, args.vocab, (args.batch, args.context))
    times: dict[str, list[float]] = {name: [] for name in models}
    for repeat in range(args.repeats + 3):
        for name, model in models.items():
            seconds = step(model, optimizers[name], ids)
            if repeat >= 3:
                times[name].append(seconds)

    medians = {name: statistics.median(t) for name, t in times.items()}
    dense = medians["dense twin"]
    print(
        f"{args.preset}, vocabulary {args.vocab}, batch {args.batch} x {args.context}, "
        f"{args.threads} thread(s), torch {torch.__version__}, {platform.machine()}"
    )
    for name, median in medians.items():
        spread = f"{min(times[name]) * 1e3:.0f}-{max(times[name]) * 1e3:.0f}"
        print(f"{name:24s} {median * 1e3:8.1f} ms  ({spread})   x{median / dense:.2f}")
    if args.json:
        result = {
            "setting": {k: v for k, v in vars(args).items() if k != "json"},
            "torch": torch.__version__,
            "machine": platform.machine(),
            "median_seconds": medians,
            "ratio_to_dense": {name: median / dense for name, median in medians.items()},
        }
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
