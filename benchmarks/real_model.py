"""A real language model, converted with thresholds per token, beside llama.cpp on the same tokens.

    python benchmarks/real_model.py files --folder runs/real_model --calibration TRAIN.txt
    python benchmarks/real_model.py perplexity --text wikitext-2=TEST.txt --text books=TEXT.txt
    python benchmarks/real_model.py speed --threads 1
    python benchmarks/real_model.py energy --text TEST.txt --calibration TRAIN.txt
    python benchmarks/real_model.py table

``files`` converts SmolLM2-135M (found as `spikeformers convert` finds it), packs it for the engine,
and lets llama.cpp quantise the same GGUF file: its Q4_1 file is the source itself, the others are
made from the numbers in it. ``perplexity`` reads the same windows in each program, with its own
arithmetic; windows that are done are kept, so that it resumes. ``speed`` times reading a prompt and
decoding after it, all programs in turn, in one process: run it on a machine that does nothing else.
``energy`` counts events and prices them (estimated). ``table`` writes
``benchmarks/results/real-model.json`` and ``.md``, and a picture. All else is measured. llama.cpp
runs as llama-cpp-python builds it, with flash attention on and off, its file mapped and read into
memory; what is read may lie in huge pages, as the engine's weights do.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from _real_model_energy import energy, energy_options, energy_table
from _real_model_picture import draw
from _sweep import ROOT, commit, save_table
from _windows import token_ids, windows_of
from spikeformers.reporting.tables import markdown
from spikeformers.storage import write_text

MODEL = "smollm2-135m"
NAME = "real-model"
MAPS = ["ffn", "qkv", "out", "head"]
DENSE = "PyTorch, fp32, dense"
ENGINE: dict[str, dict[str, Any]] = {
    "engine, T=8, int8": {"steps": 8, "weights": "int8"},
    "engine, T=8, int4 in groups": {"steps": 8, "weights": "int4"},
    "engine, T=8, no softmax, int4 in groups": {
        "steps": 8,
        "weights": "int4",
        "attention": "power-of-two",
    },
    "engine, T=6, int8": {"steps": 6, "weights": "int8"},
    "engine, T=8, density 0.8, int8": {"steps": 8, "weights": "int8", "density": 0.8},
    "engine, T=8, density 0.8, int4 in groups": {"steps": 8, "weights": "int4", "density": 0.8},
}
"""Row -> how the model is converted and packed; every linear map spikes."""
LLAMA = {"Q8_0": 7, "Q4_K_M": 15, "Q4_1": 3, "Q4_0": 2}
"""llama.cpp's own numbers of its formats (``enum llama_ftype``)."""
BASELINE = "llama.cpp Q8_0"
VARIANTS = {
    "": {},
    ", flash attention": {"flash_attention": True},
    ", read": {"mapped": False},
    ", read, flash attention": {"mapped": False, "flash_attention": True},
}
"""How llama.cpp runs a file; the table has the fastest."""
HUGE_PAGES = "glibc.malloc.hugetlb=1"
"""Has the C library ask for huge pages, which is not its default: llama.cpp does not by itself."""
CONTEXT = 512
NEW_TOKENS = 64


def engine_file(folder: Path, row: str) -> Path:
    return folder / ("".join(c if c.isalnum() else "_" for c in row) + ".engine")


def llama_file(folder: Path, kind: str) -> Path:
    return folder / f"{kind}.gguf"


def files(args: argparse.Namespace) -> None:
    """Convert, pack and quantise what is not there yet."""
    import torch

    from spikeformers.conversion import load_source
    from spikeformers.engine import write
    from spikeformers.export import pack
    from spikeformers.packaged import locate

    args.folder.mkdir(parents=True, exist_ok=True)
    source = locate(MODEL)
    print(f"source: {source.description}", flush=True)
    for kind, number in LLAMA.items():
        if not llama_file(args.folder, kind).is_file():
            quantise(Path(source.name) / source.gguf_file, llama_file(args.folder, kind), number)
    missing = {
        row: how for row, how in ENGINE.items() if not engine_file(args.folder, row).exists()
    }
    if not missing:
        return
    dense, tokenizer = load_source(MODEL)
    windows = torch.tensor(windows_of(token_ids(tokenizer, args.calibration), 4, CONTEXT))
    for row, how in missing.items():
        model = converted(dense, tokenizer, how, windows)
        write(pack(model, tokenizer, how["weights"]), engine_file(args.folder, row))
        print(f"packed: {row}", flush=True)
        del model


def converted(dense: Any, tokenizer: Any, how: Mapping[str, Any], windows: Any) -> Any:
    """The spiking model of a row; ``windows`` ``[W, T]`` are its calibration text."""
    from spikeformers.conversion import allocate, convert, make_plan, uncalibrated

    fields = {key: how[key] for key in how if key not in ("weights", "density")}
    plan = make_plan(dense, threshold="token", spiking_maps=MAPS, **fields)
    if plan.needs_calibration:
        with tempfile.TemporaryDirectory() as into:
            model = convert(dense, tokenizer, windows, plan, Path(into) / "model").model
    else:
        model = uncalibrated(dense, plan)
    if "density" in how:
        allocate(model, windows, how["density"])
    return model


def quantise(source: Path, target: Path, kind: int) -> None:
    """Let llama.cpp write ``source`` in another format; its Q4_1 file is copied as it is."""
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize = kind, True
    if kind == LLAMA["Q4_1"]:
        target.write_bytes(source.read_bytes())
    elif llama_cpp.llama_model_quantize(
        str(source).encode(), str(target).encode(), ctypes.byref(params)
    ):
        raise SystemExit(f"llama.cpp could not write {target}.")


def loss_of(logits: Any, ids: Sequence[int]) -> float:
    """Mean cross-entropy, nats per token, of logits ``[T, V]`` for the tokens that follow."""
    scores = np.asarray(logits, np.float64)[:-1]
    largest = scores.max(1, keepdims=True)
    total = np.log(np.exp(scores - largest).sum(1)) + largest[:, 0]
    return float((total - scores[np.arange(len(scores)), np.asarray(ids)[1:]]).mean())


Reader = Callable[[list[int]], float]
"""Loss of one window."""


def readers(folder: Path, stack: ExitStack) -> dict[str, Callable[[], Reader]]:
    """Row -> what opens its program and returns the loss of a window of ids."""

    def dense() -> Reader:
        import torch

        from spikeformers.conversion import load_source

        model, _ = load_source(MODEL)

        def read(ids: list[int]) -> float:
            with torch.inference_mode():
                return loss_of(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0], ids)

        return read

    def engine(row: str) -> Reader:
        from spikeformers.engine import load

        loaded = load(engine_file(folder, row), threads=1)
        return lambda ids: loss_of(loaded.feed_all(loaded.sequence(), ids), ids)

    def llama(kind: str) -> Reader:
        from llama_cpp import Llama

        model = Llama(
            str(llama_file(folder, kind)), n_ctx=CONTEXT, n_batch=CONTEXT, n_threads=1,
            n_threads_batch=1, logits_all=True, verbose=False,
        )  # fmt: skip
        stack.callback(model.close)

        def read(ids: list[int]) -> float:
            model.reset()
            model.eval(ids)
            return loss_of(model.scores[: len(ids)], ids)

        return read

    return {
        DENSE: dense,
        **{row: (lambda row=row: engine(row)) for row in ENGINE},
        **{f"llama.cpp {kind}": (lambda kind=kind: llama(kind)) for kind in LLAMA},
    }


def perplexity(args: argparse.Namespace) -> None:
    """The loss of every window in every program, kept window by window."""
    from spikeformers.conversion import load_source

    kept_file = args.folder / "perplexity.json"
    kept = json.loads(kept_file.read_text()) if kept_file.is_file() else {}
    _, tokenizer = load_source(MODEL)
    texts = {}
    for text in args.text:
        name, _, path = text.partition("=")
        texts[name] = windows_of(token_ids(tokenizer, path), args.windows, CONTEXT)
    with ExitStack() as stack:
        for row, opened in readers(args.folder, stack).items():
            losses = kept.setdefault(row, {})
            if all(len(losses.get(name, ())) >= args.windows for name in texts):
                continue
            read = opened()
            for name, windows in texts.items():
                done = losses.setdefault(name, [])
                for ids in windows[len(done) :]:
                    done.append(read(ids))
                    write_text(kept_file, json.dumps(kept, indent=1) + "\n")
                print(f"{row}, {name}: {math.exp(statistics.fmean(done)):.3f}", flush=True)


def speed(args: argparse.Namespace) -> None:
    """Tokens per second of all programs, in turn, on the first tokens of a text."""
    from dataclasses import asdict

    from spikeformers.engine import EngineSystem, load
    from spikeformers.evaluation.peers import GgufModel, builds
    from spikeformers.evaluation.systems import time_systems
    from spikeformers.kernels import choose
    from spikeformers.studies.machine import machine, versions

    if os.environ.get("GLIBC_TUNABLES") != HUGE_PAGES:
        os.environ["GLIBC_TUNABLES"] = HUGE_PAGES  # read when a program starts
        os.execv(sys.executable, [sys.executable, *sys.argv])
    with ExitStack() as stack:
        systems: dict[str, Any] = {
            row: EngineSystem(load(engine_file(args.folder, row), threads=args.threads))
            for row in ENGINE
        }
        tokenizer = next(iter(systems.values())).engine.tokenizer
        for kind in LLAMA:
            for variant, how in VARIANTS.items():
                name = f"llama.cpp {kind}{variant}"
                systems[name] = GgufModel(
                    llama_file(args.folder, kind), CONTEXT + NEW_TOKENS, args.threads, **how
                )
                stack.callback(systems[name].close)
        ids = tokenizer(Path(args.text[0].partition("=")[2]).read_text("utf-8")[:8000])["input_ids"]
        ids = ids[: CONTEXT + NEW_TOKENS]
        before = {row: systems[row].counters() for row in ENGINE}
        prefill, decode = time_systems(systems, ids, prompt_tokens=CONTEXT, repeats=args.repeats)
        reads = {}
        for row in ENGINE:
            counted = systems[row].counters()
            fired, neurons = (counted[key] - before[row][key] for key in ("events", "neurons"))
            reads[row] = {"density": fired / neurons}
    result = {
        "threads": args.threads,
        "repeats": args.repeats,
        "prompt_tokens": CONTEXT,
        "new_tokens": NEW_TOKENS,
        "kernels": str(choose()),
        "prefill": {name: asdict(timing) for name, timing in prefill.items()},
        "decode": {name: asdict(timing) for name, timing in decode.items()},
        "engine": reads,
        "file_bytes": {
            **{row: engine_file(args.folder, row).stat().st_size for row in ENGINE},
            **{f"llama.cpp {k}": llama_file(args.folder, k).stat().st_size for k in LLAMA},
        },
        "builds": builds(),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
    }
    write_text(args.folder / f"speed-{args.threads}.json", json.dumps(result, indent=1) + "\n")
    for name, timing in decode.items():
        print(f"{name}: decode {timing.tokens_per_second:.1f}, prefill "
              f"{prefill[name].tokens_per_second:.1f} tokens/s", flush=True)  # fmt: skip


def best(timings: Mapping[str, Any], row: str, clock: str = "tokens_per_second") -> float:
    """Tokens per second of a row; of llama.cpp's variants, the fastest."""
    names = [f"{row}{variant}" for variant in VARIANTS]
    return max(timings[name][clock] for name in names if name in timings)


def table(args: argparse.Namespace) -> None:
    """Results, their table and their picture."""
    losses = json.loads((args.folder / "perplexity.json").read_text())
    speeds = [json.loads(path.read_text()) for path in sorted(args.folder.glob("speed-*.json"))]
    first = next(iter(losses[DENSE]))
    rows = [row for row in losses if _has_read(losses, row, first)]
    texts = [text for text in losses[DENSE] if all(_has_read(losses, row, text) for row in rows)]
    losses = {row: {text: losses[row][text] for text in texts} for row in rows}
    columns = ["program"]
    columns += [f"perplexity, {text}" for text in texts]
    columns += ["file, MB"]
    for run in speeds:
        threads = f"{run['threads']} thread" + ("s" if run["threads"] > 1 else "")
        columns += [f"decode tokens/s, {threads}"]
        if run["threads"] == 1:
            columns += ["by processor time"]
        columns += [f"to {BASELINE}", f"prefill tokens/s, {threads}"]
    lines = []
    for row in losses:
        cells = [row]
        for text in texts:
            cells.append(_perplexity(losses, row, text))
        size = speeds[0]["file_bytes"].get(row) if speeds else None
        cells.append(f"{size / 1e6:.0f}" if size else "-")
        for run in speeds:
            alone = run["threads"] == 1
            if row == DENSE:
                cells += ["-"] * (4 if alone else 3)
                continue
            decode, prefill = best(run["decode"], row), best(run["prefill"], row)
            cells += [f"{decode:.1f}"]
            if alone:
                cells += [f"{best(run['decode'], row, 'cpu_tokens_per_second'):.1f}"]
            cells += [f"{decode / best(run['decode'], BASELINE):.2f}", f"{prefill:.0f}"]
        lines.append(cells)
    read = ", ".join(f"{len(losses[DENSE][text]) * CONTEXT:,} tokens of {text}" for text in texts)
    note = (
        f"SmolLM2-135M-Instruct from its Q4_1 file; {read}, "
        f"windows of {CONTEXT}; changes are to the dense model on the same windows, with their "
        "standard errors over windows. The engine's models have thresholds per token on every "
        "linear map and the head; the softmax is kept but in the row that says so. Q8_0, Q4_K_M "
        "and Q4_0 are llama.cpp's own conversions of that Q4_1 file, and the engine's groups of "
        "four bits are fitted to its numbers: a source in 16 bits would cost every row of four "
        f"bits more. Prompt of {CONTEXT} tokens, {NEW_TOKENS} decoded after it; llama.cpp in its "
        "fastest setting. Measured"
    )
    if speeds:
        note += (
            f" on {speeds[0]['machine'].get('processor', 'this machine')}, {speeds[0]['kernels']}"
        )
    text, results = f"{markdown(columns, lines)}\n{note}.\n", {"losses": losses, "speeds": speeds}
    if (kept := args.folder / "energy.json").is_file():
        results["energy"] = json.loads(kept.read_text())
        text += f"\n{energy_table(results['energy'])}"
    save_table(NAME, text, results)
    if speeds:
        points = [
            (row, best(speeds[0]["decode"], row), math.exp(statistics.fmean(read[texts[0]])))
            for row, read in losses.items()
            if row != DENSE
        ]
        dense = math.exp(statistics.fmean(losses[DENSE][texts[0]]))
        draw(points, dense, texts[0], ROOT / "docs" / "assets" / f"{NAME}.png")


def _has_read(losses: Mapping[str, Any], row: str, text: str) -> bool:
    """Whether a row has read all windows of a text; others are left out of the table."""
    return len(losses[row].get(text, ())) == len(losses[DENSE][text])


def _perplexity(losses: Mapping[str, Any], row: str, text: str) -> str:
    """Perplexity, and its change beside the dense model's with its standard error."""
    ours, theirs = losses[row][text], losses[DENSE][text]
    value = f"{math.exp(statistics.fmean(ours)):.2f}"
    if row == DENSE:
        return value
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    ratio = math.exp(statistics.fmean(differences))
    error = ratio * statistics.stdev(differences) / math.sqrt(len(differences))
    return f"{value} ({ratio - 1:+.2%} ± {error:.2%})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name, action in {
        "files": files, "perplexity": perplexity, "speed": speed, "energy": energy, "table": table,
    }.items():  # fmt: skip
        verb = verbs.add_parser(name)
        verb.set_defaults(action=action)
        verb.add_argument("--folder", type=Path, default=Path("runs/real_model"))
        if name == "energy":
            energy_options(verb)
        if name in ("files", "energy"):
            verb.add_argument("--calibration", required=True, help="text for rows with a density")
        if name in ("perplexity", "speed"):
            verb.add_argument(
                "--text", action="append", required=True, help="NAME=FILE; repeatable"
            )
        if name == "perplexity":
            verb.add_argument("--windows", type=int, default=16, help=f"of {CONTEXT} tokens")
        if name == "speed":
            verb.add_argument("--threads", type=int, default=1)
            verb.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    args.action(args)


if __name__ == "__main__":
    main()
