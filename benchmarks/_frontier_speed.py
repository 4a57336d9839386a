"""The speed run of the frontier: every trained model and its peers decode test text, in turns."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from _frontier_rows import CTRANSLATE2, DENSE, LLAMA, ROWS, TWIN, config_of, spiking_program
from _speed import in_engine, packed, time_rows, with_huge_pages
from _sweep import Sweep, at_best_rate
from spikeformers.storage import write_text


def measure_speed(sweep: Sweep, args: argparse.Namespace) -> None:
    """Tokens per second of every program at every size, in turns; kept in runs/."""
    from spikeformers.runs.tokenization import open_store

    with_huge_pages()
    name = args.name or Path(args.data).name
    _, tokenizer, store = open_store(args.data, {}, masked=False)
    test = store.split("test").tokens
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        rows, skipped = _open_systems(sweep, name, folder, tokenizer, args.prompt + args.new, stack)
        if not rows:
            raise SystemExit(f"no trained row of {name} has a run folder here: run `run` first.")
        record = time_rows(rows, test, args) | {"skipped": skipped}
    write_text(sweep.runs / name / "speed.json", json.dumps(record, indent=1) + "\n")


def _open_systems(
    sweep: Sweep, name: str, folder: Path, tokenizer: Any, context: int, stack: ExitStack
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
            program = TWIN if kind == DENSE else spiking_program(kind)
            about = {"size": size, "kind": kind, "seed": result["seed"], "program": program}
            file = folder / f"{len(rows)}.engine"
            if kind == DENSE:
                if any(each["size"] == size and each["kind"] == DENSE for each in rows):
                    continue  # a dense model's speed does not depend on its weights
                opened = _twin(size, tokenizer, context, file)
            elif not (run / "config.json").is_file():
                skipped[label] = f"no run folder {run} on this machine"
                continue
            else:
                opened = _engine(run, file, label, skipped)
            if opened is not None:
                system = f"{size}, {program}, seed {result['seed']}"
                rows.append({**about, "system": system, "open": opened})
            if kind == DENSE:
                for system, peer, of_peer in _peers(size, context, folder, skipped, stack):
                    rows.append({**about, "program": of_peer, "system": system, "open": peer})
    return rows, skipped


def _twin(size: str, tokenizer: Any, context: int, file: Path) -> Any:
    """A dense twin of random weights in the engine."""
    from spikeformers.models import build_model

    config = config_of(size, DENSE, len(tokenizer), max(256, context))
    return packed(build_model(config), tokenizer, file)


def _engine(run: Path, file: Path, label: str, skipped: dict[str, str]) -> Any:
    """A run's model in the engine; None if the engine refuses it."""
    from spikeformers.errors import SpikeformersError

    try:
        return in_engine(run, file)
    except SpikeformersError as error:
        skipped[f"{label}, engine"] = str(error)
        return None


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
