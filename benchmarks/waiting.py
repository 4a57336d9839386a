"""How OpenMP's threads wait: training steps with one and two threads, idle and beside other work.

    python benchmarks/waiting.py [--preset wd-spikingformer-tiny] [--threads 1,2] [--busy 1]
        [--rounds 5] [--json benchmarks/results/waiting.json]

Each cell is a process of its own, since OpenMP reads ``OMP_WAIT_POLICY`` once; cells take turns,
round by round, first on the machine as it is and then beside ``--busy`` processes that this script
starts and that do nothing but count. Waits: ``default`` (nothing set: threads spin for a while),
``active`` (they spin), ``passive`` (they sleep) and ``brief`` (they spin ``GOMP_SPINCOUNT=1000``
times, then sleep, as the command line sets it; of GNU's library alone). Measured tokens per second
by the clock, medians over rounds; ratios hold within one run only. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spikeformers.storage import write_text

WAITS: dict[str, dict[str, str]] = {
    "default": {},
    "active": {"OMP_WAIT_POLICY": "active"},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "brief": {"GOMP_SPINCOUNT": "1000"},
}
IDLE, BESIDE = "idle", "beside other work"
BUSY = "while True:\n    pass\n"
VOCABULARY = 2048


def child(preset: str, threads: int, batch: int, context: int, steps: int) -> dict[str, float]:
    """Tokens per second of ``steps`` training steps of this process, after two that do not count.

    By the clock, and by the processor time of all threads.
    """
    import torch

    from spikeformers.meters import Stopwatch
    from spikeformers.models import build_config, build_model

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = build_model(build_config(preset, VOCABULARY, {"neuron": "ni-lif"})).train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    ids = torch.randint(0, VOCABULARY, (batch, context))
    watch = Stopwatch()
    for number in range(steps + 2):
        if number == 2:
            watch.start()
        optimizer.zero_grad(set_to_none=True)
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    tokens, seconds = steps * batch * context, watch.read()
    return {
        "tokens_per_second": tokens / seconds.wall,
        "tokens_per_processor_second": tokens / seconds.cpu,
    }


def measure(args: argparse.Namespace, wait: str, threads: int) -> dict[str, float]:
    """One cell, in a process of its own."""
    chosen = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
    environment = {key: value for key, value in os.environ.items() if key not in chosen}
    command = [sys.executable, __file__, "--child", str(threads), "--preset", args.preset]
    command += ["--batch", str(args.batch), "--context", str(args.context)]
    done = subprocess.run(
        [*command, "--steps", str(args.steps)],
        env=environment | WAITS[wait] | {"OMP_NUM_THREADS": str(threads)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    cell: dict[str, float] = json.loads(done.stdout)
    return cell


@contextmanager
def beside(processes: int) -> Iterator[None]:
    """``processes`` of this script's own that keep a processor busy each; ended afterwards."""
    started = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def ratios(medians: Mapping[str, Mapping[str, float]], waits: list[str]) -> dict[str, Any]:
    """Of each load: two figures that the setting is judged by, where their cells were measured."""
    figures: dict[str, Any] = {}
    for load, cells in medians.items():
        most = max(int(key.rpartition(", ")[2].split()[0]) for key in cells)
        passive = cells.get(f"passive, {most} threads")
        if passive is None or most == 1:
            continue
        figures[load] = {
            f"passive to {wait}, {most} threads": passive / cells[f"{wait}, {most} threads"]
            for wait in waits
            if wait != "passive"
        }
        if f"{waits[0]}, 1 threads" in cells:
            figures[load] |= {
                f"{wait}, {most} threads to one": cells[f"{wait}, {most} threads"]
                / cells[f"{wait}, 1 threads"]
                for wait in waits
            }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="wd-spikingformer-tiny")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--steps", type=int, default=10, help="timed steps of a cell")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--waits", default=",".join(WAITS))
    parser.add_argument("--busy", type=int, default=1, help="busy processes to start")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(child(args.preset, args.child, args.batch, args.context, args.steps)))
        return

    waits, threads = args.waits.split(","), [int(count) for count in args.threads.split(",")]
    cells = [(wait, count) for count in threads for wait in waits]
    load_before = os.getloadavg()[0]
    rounds_by_load: dict[str, dict[str, list[dict[str, float]]]] = {IDLE: {}, BESIDE: {}}
    for load, busy in ((IDLE, 0), (BESIDE, args.busy)):
        with beside(busy):
            for number in range(args.rounds):
                for wait, count in cells:
                    measured = measure(args, wait, count)
                    rounds_by_load[load].setdefault(f"{wait}, {count} threads", []).append(measured)
                print(f"{load}: round {number + 1} of {args.rounds}", file=sys.stderr, flush=True)
    medians = {
        load: {
            cell: statistics.median(measured["tokens_per_second"] for measured in rounds)
            for cell, rounds in cells_of.items()
        }
        for load, cells_of in rounds_by_load.items()
    }
    for load, cells_of in medians.items():
        print(f"\n{load}" + (f" ({args.busy} busy process(es))" if load == BESIDE else ""))
        for cell, speed in cells_of.items():
            taken = [measured["tokens_per_second"] for measured in rounds_by_load[load][cell]]
            print(f"{cell:24s} {speed:10,.0f} tokens/s  ({min(taken):,.0f}-{max(taken):,.0f})")
    compared = ratios(medians, waits)
    for load, figures in compared.items():
        for name, ratio in figures.items():
            print(f"{load}: {name} {ratio:.2f}")
    if args.json:
        from spikeformers.evaluation.provenance import software_record
        from spikeformers.studies.machine import machine

        result = {
            "setting": {k: v for k, v in vars(args).items() if k not in ("json", "child")},
            "waits": WAITS,
            "load_average_before": load_before,
            "machine": {k: v for k, v in machine().items() if k not in ("threads", "waiting")},
            **software_record(),
            "median_tokens_per_second": medians,
            "ratios": compared,
            "rounds": rounds_by_load,
        }
        write_text(args.json, json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
