"""Decoding speed of several systems: the same test text, in turns, in one process."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _sweep import RESULTS, Sweep, commit
from spikeformers.reporting.tables import markdown
from spikeformers.storage import write_text


def speed_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, help="what the rows were trained on")
    parser.add_argument("--name", help="of table and folder; the data's unless given")
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--new", type=int, default=200, help="tokens decoded after the prompt")
    parser.add_argument("--repeats", type=int, default=9)


def with_huge_pages() -> None:
    """Start this program again with huge pages, which are set when a program starts, and one
    thread; nothing if it has them.
    """
    import torch

    from real_model import HUGE_PAGES

    if os.environ.get("GLIBC_TUNABLES") != HUGE_PAGES:
        os.environ["GLIBC_TUNABLES"] = HUGE_PAGES
        os.execv(sys.executable, [sys.executable, *sys.argv])
    torch.set_num_threads(1)


def time_rows(
    rows: Sequence[dict[str, Any]], tokens: Any, args: argparse.Namespace
) -> dict[str, Any]:
    """The record of a speed run over stretches of ``tokens``.

    A row has the name of its ``system`` and the system itself as ``open``, which is taken out; it
    gets ``tokens_per_second`` of every turn, and what decoding reads, counted.
    """
    import numpy as np

    from spikeformers.evaluation.peers import builds
    from spikeformers.evaluation.systems import time_systems
    from spikeformers.kernels import choose
    from spikeformers.studies.machine import machine, versions

    length = args.prompt + args.new
    starts = np.linspace(0, len(tokens) - length, args.repeats + 1).astype(int).tolist()
    texts = [np.asarray(tokens[at : at + length]).tolist() for at in starts]
    systems = {row["system"]: row.pop("open") for row in rows}
    for row in rows:
        row |= {"tokens_per_second": [], **counted(systems[row["system"]], texts, args.prompt)}
    for turn, text in enumerate(texts):
        _, decode = time_systems(
            systems, text, prompt_tokens=args.prompt, repeats=1, warmup=int(turn == 0)
        )
        if turn == 0:
            continue  # all are warm from here on
        for row in rows:
            row["tokens_per_second"].append(decode[row["system"]].tokens_per_second)
        print(f"turn {turn} of {args.repeats}", flush=True)
    for row in rows:
        rate = statistics.median(row["tokens_per_second"])
        print(f"{row['system']}: {rate:,.0f} tokens/s, reads {row['read']:.3f} of the weights")
    return {
        "prompt_tokens": args.prompt,
        "new_tokens": args.new,
        "threads": 1,
        "kernels": str(choose()),
        "rows": list(rows),
        "builds": builds(),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
    }


def load_speed(sweep: Sweep, name: str) -> dict[str, Any] | None:
    """The speed run of this machine, which is kept beside the results, or the one kept there."""
    here, kept = sweep.runs / name / "speed.json", RESULTS / f"{sweep.name}-{name}-speed.json"
    if here.is_file():
        write_text(kept, here.read_text(encoding="utf-8"))
    return json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else None


def in_engine(run: Path, file: Path) -> Any:
    """A run's model in the engine, from a file of int8. Raises what `pack` raises."""
    from spikeformers.models import load_model

    return packed(*load_model(run), file)


def packed(model: Any, tokenizer: Any, file: Path, weights: str = "int8") -> Any:
    """A model in the engine, from a file that it leaves. Raises what `pack` raises."""
    from spikeformers.engine import EngineSystem, load, write
    from spikeformers.export import pack

    write(pack(model, tokenizer, weights), file)
    return EngineSystem(load(file, threads=1))


def counted(system: Any, texts: list[list[int]], prompt: int) -> dict[str, float]:
    """Share of weight bytes that decoding reads, and density, counted; 1 for other programs."""
    engine = getattr(system, "engine", None)
    if engine is None:
        return {"read": 1.0, "density": 1.0}
    total = dict.fromkeys(("weight_bytes", "tokens", "events", "neurons"), 0)
    for text in texts:
        system.begin(text[:prompt])
        before = engine.counters()
        for token in text[prompt:]:
            system.step(token)
        after = engine.counters()
        total = {key: value + after[key] - before[key] for key, value in total.items()}
    return {
        "read": total["weight_bytes"] / total["tokens"] / engine.dense_weight_bytes,
        "density": total["events"] / total["neurons"] if total["neurons"] else 1.0,
    }


def speed_table(record: dict[str, Any], weights: str = ", int8") -> str:
    """What decoding reads and how fast it is, of each row, with the range of the turns.

    ``weights``: how all rows are packed, empty where each says it.
    """
    kernels, turns = record["kernels"].partition(" ")[0], record["rows"][0]["tokens_per_second"]
    head = (
        f"Decoding in the engine{weights}, one thread, {record['new_tokens']} tokens after "
        f"{record['prompt_tokens']} of test text, first seed, medians of {len(turns)} turns (least "
        f"to most), {record['machine']['processor']}, kernels {kernels}, commit "
        f"{record['commit']}; measured:"
    )
    lines = [
        [
            row["system"],
            f"{row['read']:.3f}",
            f"{row['density']:.3f}",
            f"{statistics.median(rates := row['tokens_per_second']):,.0f} "
            f"({min(rates):,.0f} to {max(rates):,.0f})",
        ]
        for row in record["rows"]
    ]
    columns = ["row", "weights read", "density", "tokens/s"]
    return f"{head}\n\n{markdown(columns, lines)}"
