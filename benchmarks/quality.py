"""Quality of the spiking variants and their dense twins at equal tokens.

    python benchmarks/quality.py run --data builtin --tokenizer bpe:4096 --steps 2000 --jobs 2
    python benchmarks/quality.py table

``run`` trains every row of ROWS through the library's own loop, one process and one thread each,
under ``runs/quality/``; rows that are done are kept and unfinished ones resume (then the CPU time
is that of the last part only). ``table`` reads the results, writes
``benchmarks/results/quality-NAME.json`` and ``.md``, and puts the tables into README between the
marks ``<!-- quality-NAME -->`` and ``<!-- end -->``. All rows of a corpus see the same tokens in
the same order; validation is the whole validation split. Losses and times are measured, energies
estimated (45 nm prices of the papers).
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RUNS = Path("runs/quality")
RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parents[1] / "README.md"


@dataclass(frozen=True)
class Row:
    """One line of the table: a preset's overrides, or its dense twin with given positions."""

    model: dict[str, Any] = field(default_factory=dict)
    twin: str | None = None
    learning_rate: float = 5e-3
    seeds: tuple[int, ...] = (0,)
    label: str | None = None
    """Its name in the table, where it is not the key."""


SETTING = ("tokenizer", "preset", "steps", "batch", "context")
THREE = (0, 1, 2)
ROWS: dict[str, Row] = {
    "dense-rotary": Row(twin="rotary", seeds=THREE, label="dense twin, rotary positions"),
    "cwssa-hard": Row(seeds=THREE, label="**spiking, CWSSA hard**"),
    "dense-learned": Row(twin="learned", label="dense twin, learned positions (GPT-2)"),
    "softmax": Row({"attention": "softmax"}, label="spiking, softmax"),
    "cwssa-top3": Row({"wta": "top_k", "winners": 3}, label="spiking, CWSSA top-3"),
    "ssa": Row({"attention": "ssa"}, label="spiking, SSA (learned positions)"),
    "cwssa-hard, 8 levels": Row({"levels": 8}),
    "cwssa-hard, 4 levels": Row({"levels": 4}),
    "cwssa-hard, any density": Row({"firing_rate_weight": 0.0}),
    "cwssa-hard, target 0.05": Row({"firing_rate_target": 0.05}),
    "cwssa-hard, real head": Row({"spiking_head": False}),
    "cwssa-hard, learned positions": Row({"position": "learned"}),
}


def folder(args: argparse.Namespace, row: str, seed: int) -> Path:
    """Run folder of one row and seed."""
    name = "".join(c if c.isalnum() or c in "-." else "_" for c in row)
    return RUNS / (args.name or Path(args.data).name) / f"{name}-s{seed}"


def train_one(args: argparse.Namespace) -> None:
    """Train (or resume) one row with one seed and write its ``result.json``."""
    import torch
    from transformers import set_seed

    from spikeformers.data import load_corpus, make_tokenizer, tokenize_corpus
    from spikeformers.energy import energy_of
    from spikeformers.evaluation import perplexity
    from spikeformers.models import build_config, build_model, control_of
    from spikeformers.training import TrainConfig, train

    row = ROWS[args.row]
    out = folder(args, args.row, args.seed)
    if (out / "result.json").is_file():
        return
    torch.set_num_threads(1)
    corpus = load_corpus(args.data)
    tokenizer = make_tokenizer(args.tokenizer, corpus)
    store = tokenize_corpus(corpus, tokenizer)
    set_seed(args.seed)
    spiking = build_config(args.preset, len(tokenizer), row.model)
    model = build_model(control_of(spiking, row.twin) if row.twin else spiking)  # type: ignore[arg-type]
    config = TrainConfig(
        steps=args.steps,
        batch_size=args.batch,
        context=args.context,
        learning_rate=row.learning_rate,
        seed=args.seed,
        threads=1,
        eval_every=max(1, args.steps // 10),
        save_every=max(1, args.steps // 10),
        keep_checkpoints=1,
    )
    began = time.process_time()
    result = train(
        model, store, tokenizer, out, config, resume=(out / "run.json").is_file(), progress=False
    )
    if result.interrupted:
        sys.exit(130)
    held_out = store.split("validation")
    report = perplexity(model, tokenizer, held_out, context=args.context)
    tokens = torch.tensor(held_out.tokens[: 16 * args.context].astype("int64"))
    energy = energy_of(model, [tokens.view(16, args.context)])
    summary = {
        "row": args.row,
        "seed": args.seed,
        "setting": {key: getattr(args, key) for key in SETTING},
        "learning_rate": row.learning_rate,
        "parameters": model.num_parameters(),
        "tokens_seen": result.tokens_seen,
        "train_seconds": result.seconds,
        "train_cpu_seconds": time.process_time() - began,
        "perplexity": report.as_dict(),
        "energy": {k: v for k, v in energy.as_dict().items() if k not in ("products", "prices")},
        "commit": _commit(),
        "machine": f"{platform.machine()}, {platform.system()}, one thread",
        "torch": torch.__version__,
        "corpus": corpus.digest,
    }
    partial = out / "result.json.partial"
    partial.write_text(json.dumps(summary, indent=1), encoding="utf-8")
    partial.replace(out / "result.json")


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def run(args: argparse.Namespace) -> None:
    """Train all rows, ``--jobs`` at a time."""
    rows = args.rows.split("|") if args.rows else list(ROWS)
    work = [
        (seed, row)
        for seed in (int(seed) for seed in args.seeds.split(","))
        for row in rows
        if seed in ROWS[row].seeds
    ]
    shared = ["--data", args.data, "--tokenizer", args.tokenizer, "--preset", args.preset]
    shared += ["--name", args.name] if args.name else []
    for key in ("steps", "batch", "context"):
        shared += [f"--{key}", str(getattr(args, key))]

    def one(item: tuple[int, str]) -> None:
        seed, row = item
        command = [sys.executable, __file__, "one", "--row", row, "--seed", str(seed), *shared]
        log = folder(args, row, seed).with_suffix(".log")
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as stream:
            code = subprocess.run(command, stdout=stream, stderr=stream, check=False).returncode
        print(
            f"{row} seed {seed}: {'done' if code == 0 else f'exit {code}, see {log}'}", flush=True
        )

    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(one, work))


def table(_: argparse.Namespace) -> None:
    """Write the tables of all corpora that have results."""
    RESULTS.mkdir(exist_ok=True)
    for corpus in sorted(p for p in RUNS.iterdir() if p.is_dir()):
        found = [json.loads(p.read_text()) for p in sorted(corpus.glob("*/result.json"))]
        if found:
            text = markdown(corpus.name, found)
            (RESULTS / f"quality-{corpus.name}.md").write_text(text, encoding="utf-8")
            (RESULTS / f"quality-{corpus.name}.json").write_text(json.dumps(found, indent=1) + "\n")
            fill_readme(f"quality-{corpus.name}", text)
            print(text)


def fill_readme(name: str, text: str) -> None:
    """Replace what stands in README between the marks of ``name``; no marks, no table there."""
    before, mark, rest = README.read_text(encoding="utf-8").partition(f"<!-- {name} -->\n")
    if mark:
        _, end, after = rest.partition("<!-- end -->")
        if not end:
            raise SystemExit(f"README.md: {mark.strip()} has no <!-- end -->.")
        README.write_text(f"{before}{mark}\n{text}\n{end}{after}", encoding="utf-8")


def markdown(name: str, found: list[dict[str, Any]]) -> str:
    """One line a row, mean and sample deviation over its seeds."""
    setting = found[0]["setting"]
    commits = ", ".join(sorted({run["commit"] for run in found}))
    lines = [
        f"{name}, {setting['tokenizer']}, {setting['preset']}, {setting['steps']} steps of "
        f"{setting['batch']} x {setting['context']} tokens; seeds from 0; commits {commits}; "
        f"torch {found[0]['torch']}, {found[0]['machine']}. Losses measured over the whole "
        "validation split; energies estimated, by the papers' sum and with elementwise operations.",
        "",
        "| row | seeds | nats/token | bits/byte | density | nJ/token, papers' | nJ/token, with "
        "elementwise | train CPU s | parameters |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in ROWS:
        runs = [r for r in found if r["row"] == row]
        if not runs:
            continue
        spiking = runs[0]["energy"]["by_neuron"]
        cells = [
            ROWS[row].label or row,
            str(len(runs)),
            _mean([r["perplexity"]["nats_per_token"] for r in runs], 3),
            _mean([r["perplexity"]["bits_per_byte"] for r in runs], 3),
            _mean([r["energy"]["density"] for r in runs], 3) if spiking else "1",
            _mean([r["energy"]["picojoules_per_token"] / 1e3 for r in runs], 0),
            _mean([r["energy"]["with_elementwise_per_token"] / 1e3 for r in runs], 0),
            f"{statistics.mean(r['train_cpu_seconds'] for r in runs):.0f}",
            f"{runs[0]['parameters']:,}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _mean(values: list[float], digits: int) -> str:
    """Mean, and the sample deviation where it shows at so many digits."""
    mean = f"{statistics.mean(values):,.{digits}f}"
    spread = f"{statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean} ± {spread}" if spread.strip("0.") else mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, call in (("run", run), ("one", train_one), ("table", table)):
        sub = commands.add_parser(name)
        sub.set_defaults(call=call)
        if name == "table":
            continue
        sub.add_argument("--data", default="builtin", help="builtin, or a corpus folder")
        sub.add_argument("--name", help="of the table and its folder; the corpus' unless given")
        sub.add_argument("--tokenizer", default="bpe:4096")
        sub.add_argument("--preset", default="wd-spikingformer-tiny")
        sub.add_argument("--steps", type=int, default=2000)
        sub.add_argument("--batch", type=int, default=16)
        sub.add_argument("--context", type=int, default=128)
        if name == "run":
            sub.add_argument("--jobs", type=int, default=2, help="processes, one thread each")
            sub.add_argument(
                "--rows", help="rows, separated by a bar: 'ssa|softmax'; all unless given"
            )
            sub.add_argument("--seeds", default="0,1,2", help="only these of each row's seeds")
        else:
            sub.add_argument("--row", required=True, choices=list(ROWS))
            sub.add_argument("--seed", type=int, required=True)
    args = parser.parse_args()
    call = args.call
    del args.call
    call(args)


if __name__ == "__main__":
    main()
