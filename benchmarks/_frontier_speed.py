"""The speed run of the frontier: every trained model and its peers decode test text, in turns."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from _frontier_rows import CTRANSLATE2, DENSE, LLAMA, ROWS, TWIN, config_of, spiking_program
from _sweep import Sweep, at_best_rate, commit
from spikeformers.storage import write_text


def speed_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", required=True, help="the token store that the rows were trained on"
    )
    parser.add_argument("--name", help="of table and folder; the store's unless given")
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--new", type=int, default=200, help="tokens decoded after the prompt")
    parser.add_argument("--repeats", type=int, default=9)


def measure_speed(sweep: Sweep, args: argparse.Namespace) -> None:
    """Tokens per second of every program at every size, in turns; kept in runs/."""
    import numpy as np
    import torch

    from real_model import HUGE_PAGES
    from spikeformers.data import TokenStore
    from spikeformers.evaluation.peers import builds
    from spikeformers.evaluation.systems import time_systems
    from spikeformers.kernels import choose
    from spikeformers.studies.machine import machine, versions

    if os.environ.get("GLIBC_TUNABLES") != HUGE_PAGES:
        os.environ["GLIBC_TUNABLES"] = HUGE_PAGES  # read when a program starts
        os.execv(sys.executable, [sys.executable, *sys.argv])
    torch.set_num_threads(1)
    name = args.name or Path(args.data).name
    test = TokenStore(args.data).split("test").tokens
    length = args.prompt + args.new
    starts = np.linspace(0, len(test) - length, args.repeats + 1).astype(int).tolist()
    texts = [np.asarray(test[at : at + length]).tolist() for at in starts]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        rows, skipped = _open_systems(sweep, name, folder, length, stack)
        if not rows:
            raise SystemExit(f"no trained row of {name} has a run folder here: run `run` first.")
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
    record = {
        "prompt_tokens": args.prompt,
        "new_tokens": args.new,
        "threads": 1,
        "kernels": str(choose()),
        "rows": rows,
        "skipped": skipped,
        "builds": builds(),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
    }
    write_text(sweep.runs / name / "speed.json", json.dumps(record, indent=1) + "\n")
    for row in rows:
        rate = statistics.median(row["tokens_per_second"])
        print(f"{row['system']}: {rate:,.0f} tokens/s, reads {row['read']:.3f} of the weights")


def _open_systems(
    sweep: Sweep, name: str, folder: Path, context: int, stack: ExitStack
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The systems to time, and why others are left out."""
    rows: list[dict[str, Any]] = []
    skipped: dict[str, str] = {}
    results = sweep.results(name)
    for row, (size, kind) in ROWS.items():
        for result in at_best_rate(results, row):
            rate = result["learning_rate"] if "validation_loss" in result else None
            run = sweep.folder(argparse.Namespace(name=name), row, result["seed"], rate)
            label = f"{row}, seed {result['seed']}"
            if not (run / "config.json").is_file():
                skipped[label] = f"no run folder {run} on this machine"
                continue
            program = TWIN if kind == DENSE else spiking_program(kind)
            about = {"size": size, "kind": kind, "seed": result["seed"]}
            if kind == DENSE and any(
                each["size"] == size and each["kind"] == DENSE for each in rows
            ):
                continue  # a dense model's speed does not depend on its weights
            if (opened := _engine(run, folder / f"{len(rows)}.engine", label, skipped)) is not None:
                system = f"{size}, {program}, seed {result['seed']}"
                rows.append({**about, "program": program, "system": system, "open": opened})
            if kind == DENSE:
                for system, peer, program in _peers(size, context, folder, skipped, stack):
                    rows.append({**about, "program": program, "system": system, "open": peer})
    return rows, skipped


def _engine(run: Path, file: Path, label: str, skipped: dict[str, str]) -> Any:
    """A run's model in the engine, from a file of int8; None if the engine refuses it."""
    from spikeformers.engine import EngineSystem, load, write
    from spikeformers.errors import SpikeformersError
    from spikeformers.export import pack
    from spikeformers.models import load_model

    try:
        write(pack(*load_model(run), "int8"), file)
    except SpikeformersError as error:
        skipped[f"{label}, engine"] = str(error)
        return None
    return EngineSystem(load(file, threads=1))


def _peers(
    size: str, context: int, folder: Path, skipped: dict[str, str], stack: ExitStack
) -> Iterator[tuple[str, Any, str]]:
    """System, its model and its program, of a dense GPT-2 of a twin's shape in other programs."""
    from real_model import VARIANTS
    from spikeformers.evaluation.peer_ctranslate2 import CTranslate2
    from spikeformers.evaluation.peers import GgufModel, usable, write_gpt2_gguf

    shape = config_of(size, "budget 0.35", 4096, max(256, context))
    for program, peer in ((LLAMA, "llama.cpp-q8_0"), (CTRANSLATE2, "ctranslate2-int8")):
        if not usable(peer, shape):
            skipped[f"{size}, {program}"] = "not installed, or it has no weights of this shape"
        elif program == LLAMA:
            write_gpt2_gguf(shape, file := folder / f"{size}.gguf", "Q8_0")
            for variant, how in VARIANTS.items():
                model = GgufModel(file, shape.max_position_embeddings, 1, **how)
                stack.callback(model.close)
                yield f"{size}, {program}{variant}", model, f"{program}{variant}"
        else:
            (into := folder / f"{size}-ct2").mkdir()
            other = CTranslate2(shape, into, 1)
            stack.callback(other.close)
            yield f"{size}, {program}", other, program


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
