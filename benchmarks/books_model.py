"""The model that comes with the package: its files, its card, and its page in the documentation.

    python benchmarks/books_model.py RUN --data STORE --texts BOOKS [--twin TWIN]
    python benchmarks/books_model.py --data STORE --twin TWIN
    python benchmarks/books_model.py --table

RUN is the run folder of recipes/wd-spikingformer-books.yaml, TWIN that of the same command with
--control; STORE is the token store that they read, BOOKS the folder of benchmarks/books.py that it
was made from. Writes src/spikeformers/packaged/books (the engine file in int8, what the model
folder is made from, the card), benchmarks/results/books-model.json and docs/assets/books.png, and
fills the marks in docs/books.md. Losses are measured on the whole test split: of RUN in fp32, of
what is shipped, and of the twin in fp32. Without RUN a twin that was trained later joins the
results that are kept. ``--table`` writes card, page and picture again from the results.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from _books_pages import HOME, PROMPT, SEEDS, figures_table, fill, note
from _sweep import RESULTS, commit
from spikeformers.packaged import ENGINE, RECIPE, REST
from spikeformers.storage import write_text

KEPT = RESULTS / "books-model.json"
COPIED = ("generation_config.json", "tokenizer.json", "tokenizer_config.json")
MOST_BYTES = 12_000_000
TOKENS = 100
"""Of each sample."""
SHARED = ("tokens", "batch_size", "context", "gradient_accumulation", "seed")
"""What a twin's training has to have in common with the spiking model's."""


def pack_files(run: Path, home: Path) -> None:
    """Write the files of a packaged model; SystemExit if they are too large for the repository."""
    from safetensors.numpy import load_file, save_file

    from spikeformers.engine import write
    from spikeformers.export import pack
    from spikeformers.models import load_model

    home.mkdir(parents=True, exist_ok=True)
    packed = pack(*load_model(run), "int8")
    write(packed, home / ENGINE)
    recipe, rest = split(packed.tensors, load_file(run / "model.safetensors"))
    save_file(rest, home / REST)
    (home / REST).chmod(0o644)
    write_text(home / RECIPE, json.dumps(recipe, indent=1) + "\n")
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    config.pop("auto_map", None)  # of a folder that brings its own loader
    write_text(home / "config.json", json.dumps(config, indent=2) + "\n")
    for name in COPIED:
        shutil.copyfile(run / name, home / name)
    total = sum(file.stat().st_size for file in home.iterdir())
    if total > MOST_BYTES:
        raise SystemExit(
            f"{home} holds {total:,} bytes, more than {MOST_BYTES:,}; {len(recipe)} parameters are "
            f"matrices of the engine file, {len(rest)} are stored beside it."
        )
    print(f"{home}: {total:,} bytes", flush=True)


def split(
    packed: Mapping[str, NDArray[Any]], parameters: Mapping[str, NDArray[Any]]
) -> tuple[dict[str, list[Any]], dict[str, NDArray[Any]]]:
    """Where the engine has each matrix, and the parameters that it has no integers of.

    A parameter ``[out, in]`` is where columns of an int8 matrix ``[in, out]`` have its scales and
    its whole numbers.
    """
    from spikeformers.export.quantising import int8

    places: dict[str, list[Any]] = {}
    rest: dict[str, NDArray[Any]] = {}
    for name, value in parameters.items():
        place = None
        if value.ndim == 2:
            place = _place(packed, *int8(np.ascontiguousarray(value.T, np.float32)))
        if place is None:
            rest[name] = np.ascontiguousarray(value)
        else:
            places[name] = place
    return places, rest


def _place(
    packed: Mapping[str, NDArray[Any]], whole: NDArray[Any], scale: NDArray[Any]
) -> list[Any] | None:
    for matrix, tensor in packed.items():
        if tensor.dtype != np.int8 or tensor.ndim != 2 or len(tensor) != len(whole):
            continue
        scales = packed[f"{matrix}.scale"]
        for first in np.flatnonzero(scales == scale[0]).tolist():
            last = first + len(scale)
            if np.array_equal(scales[first:last], scale) and np.array_equal(
                tensor[:, first:last], whole
            ):
                return [matrix, first, last]
    return None


# --- figures -------------------------------------------------------------------------------------


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All figures of the page, of the run, of what is shipped, and of the twin if there is one."""
    import torch

    from _speed import counted
    from spikeformers.engine import EngineSystem, load
    from spikeformers.packaged.restoring import restore
    from spikeformers.runs.tokenization import open_store

    torch.set_num_threads(args.threads)
    _, _, store = open_store(args.data, {}, masked=False)
    test = store.split("test")
    context = about(args.run)["config"]["context"]
    result: dict[str, Any] = {
        "spiking": figures(args.run, store, args.tokens) | about(args.run),
        "data": {
            "splits": store.manifest["splits"],
            "digest": store.manifest["corpus"]["digest"],
            "books": {part: titles(args.texts / part) for part in ("train", "validation", "test")},
        },
        "commit": commit(),
        "torch": torch.__version__,
    }
    with tempfile.TemporaryDirectory() as temporary:
        restore(HOME, Path(temporary))
        result["shipped"] = figures(Path(temporary), store, args.tokens, context)
    system = EngineSystem(load(HOME / ENGINE, threads=1))
    starts = np.linspace(0, test.num_tokens - context, 8).astype(int).tolist()
    texts = [np.asarray(test.tokens[at : at + context]).tolist() for at in starts]
    result["shipped"] |= counted(system, texts, 32) | {"bytes": sizes()}
    result["samples"] = {"spiking": samples(system.engine, None)}
    if args.twin is not None:
        add_twin(result, args.twin, store)
    return result


def figures(
    folder: Path, store: Any, tokens: int | None, context: int | None = None
) -> dict[str, Any]:
    """Quality on the test split and estimated energy of a model; ``context``: that of its run."""
    from frontier import decode_picojoules
    from spikeformers.evaluation import perplexity
    from spikeformers.models import load_model

    model, tokenizer = load_model(folder)
    context = context or about(folder)["config"]["context"]
    report = perplexity(model, tokenizer, store.split("test"), context=context, max_tokens=tokens)
    return {
        "parameters": model.num_parameters(),
        "bits_per_byte": report.bits_per_byte,
        "nats_per_token": report.nats_per_token,
        "tokens": report.tokens,
        "decode_picojoules": decode_picojoules(model, store, context),
    }


def add_twin(result: dict[str, Any], twin: Path, store: Any) -> None:
    """Put a twin's figures and samples beside the spiking model's; SystemExit if they differ in
    more than the learning rate, or in the text.
    """
    from spikeformers.models import load_model

    described = about(twin)
    before = result["data"]["digest"], {key: result["spiking"]["config"][key] for key in SHARED}
    now = store.manifest["corpus"]["digest"], {key: described["config"][key] for key in SHARED}
    if before != now:
        raise SystemExit(
            f"{twin} is not a twin: the spiking model was trained on {before}, it on {now}."
        )
    result["twin"] = figures(twin, store, result["spiking"]["tokens"]) | described
    result["samples"]["twin"] = samples(*load_model(twin))


def twin_only(args: argparse.Namespace) -> dict[str, Any]:
    """What is kept, with the twin's figures."""
    import torch

    from spikeformers.runs.tokenization import open_store

    torch.set_num_threads(args.threads)
    result: dict[str, Any] = json.loads(KEPT.read_text(encoding="utf-8"))
    add_twin(result, args.twin, open_store(args.data, {}, masked=False)[2])
    return result


def about(run: Path) -> dict[str, Any]:
    """How a run was trained, and its validation losses on the way."""
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    points = [json.loads(line) for line in lines]
    keys = ("tokens_seen", "bits_per_byte", "seconds")
    return {
        "config": record["config"],
        "tokens_seen": max(point.get("tokens_seen", 0) for point in points),
        "model": {key: record["model"].get(key) for key in ("model_type", "budget")},
        "shape": [
            record["model"][key]
            for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
        ],
        "curve": [
            {key: point[key] for key in keys} for point in points if point["kind"] == "validation"
        ],
    }


def titles(folder: Path) -> list[list[str]]:
    """Title, author and year of each book of a folder, from the first lines of its file."""
    books = []
    for file in sorted(folder.glob("*.md")):
        head = file.read_text(encoding="utf-8")[:2000]

        def field(name: str, head: str = head) -> str:
            match = re.search(rf"^#+ *{name}: *(.+?) *$", head, re.MULTILINE)
            return match[1] if match else ""

        books.append([field("Title") or file.stem, field("Author"), field("Year")])
    return books


def sizes() -> dict[str, int]:
    return {file.name: file.stat().st_size for file in sorted(HOME.iterdir())}


def samples(model: Any, tokenizer: Any) -> list[str]:
    """A text per seed, at temperature 0.8 and the other defaults of `spikeformers generate`."""
    from spikeformers.generation import generate_text

    return [
        generate_text(
            model, PROMPT, tokenizer=tokenizer, max_new_tokens=TOKENS, temperature=0.8, seed=seed
        ).text
        for seed in SEEDS
    ]


def main() -> None:
    """Pack, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("--twin", type=Path)
    parser.add_argument("--data", type=Path, help="the token store of the runs")
    parser.add_argument("--texts", type=Path, help="the books that it was made from")
    parser.add_argument("--tokens", type=int, help="of the test split; all unless given")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="only pages, of kept results")
    args = parser.parse_args()
    if not args.table:
        if args.run is None and args.data and args.twin:
            result = twin_only(args)
        elif None not in (args.run, args.data, args.texts):
            pack_files(args.run, HOME)
            result = measure(args)
        else:
            parser.error("give RUN, --data and --texts, or --data and --twin, or --table.")
        write_text(KEPT, json.dumps(result, indent=1) + "\n")
    result = json.loads(KEPT.read_text(encoding="utf-8"))
    fill(result)
    print(f"{note(result)}\n{figures_table(result)}")


if __name__ == "__main__":
    main()
