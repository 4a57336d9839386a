"""Estimated energy in full, memory included, of trained models beside their dense twins.

    python benchmarks/energy.py run --name tiny --model runs/mine --control runs/twin --data TEXT
    python benchmarks/energy.py table

Events are counted in a real run over the validation text (measured); joules are estimated, by the
papers' sum and by everything with memory (docs/energy.md), at 45 and 7 nm prices. ``run`` writes
``benchmarks/results/energy-NAME.json``, ``table`` the tables of docs/results/.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

from _sweep import RESULTS, commit, fill_pages
from spikeformers.reporting.tables import markdown
from spikeformers.storage import write_text

PRICES = ("horowitz45", "tpu7")
PAIRS = (("int8", "fp16"), ("int8", "int8"), ("fp32", "fp32"))


def run(args: argparse.Namespace) -> None:
    import torch

    from spikeformers.data import load_corpus, tokenize_corpus
    from spikeformers.energy.pricing.price_table import load_table
    from spikeformers.models import load_reference
    from spikeformers.studies import count_and_estimate, windows_of

    torch.set_num_threads(1)
    model, tokenizer = load_reference(args.model)
    control, _ = load_reference(args.control)
    corpus = load_corpus(args.data)
    held_out = tokenize_corpus(corpus, tokenizer).split("validation")
    windows = windows_of(held_out, args.context, args.tokens)
    record: dict[str, Any] = {
        "setting": {"context": args.context, "tokens": args.tokens, "corpus": corpus.digest},
        "model_type": model.config.model_type,
        "parameters": [model.num_parameters(), control.num_parameters()],
        "commit": commit(),
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {platform.system()}",
        "prices": {},
    }
    for name in PRICES:
        parts = count_and_estimate(args.name, model, control, windows, load_table(name)).parts()
        record["prices"][name] = parts["full"]
        record["paper"] = {
            side: {
                key: parts["paper"][side][key]
                for key in ("picojoules_per_token", "with_elementwise_per_token", "density")
            }
            for side in ("model", "control")
        }
    kept = RESULTS / f"energy-{args.name}.json"
    write_text(kept, json.dumps(record, indent=1) + "\n")


def table(record: dict[str, Any], name: str) -> str:
    paper = {side: report["picojoules_per_token"] / 1e3 for side, report in record["paper"].items()}
    head = (
        f"{name} ({record['model_type']}, {record['parameters'][0]:,} parameters) at a measured "
        f"density of {record['paper']['model']['density']:.3f}, beside its dense twin: papers' sum "
        f"{paper['model']:,.0f} and {paper['control']:,.0f} nJ per token. In full, uJ per token, "
        f"and as a share of the twin's; commit {record['commit']}. Estimated from counted events."
    )
    rows = []
    for price, full in record["prices"].items():
        sides = {
            side: {
                form: {(p["phase"], p["context"]): p["picojoules"] for p in phases}
                for form, phases in full[side]["formats"].items()
            }
            for side in ("model", "control")
        }
        for phase in sides["model"]["int8"]:
            shares = []
            for ours, against in PAIRS:
                mine, other = sides["model"][ours][phase], sides["control"][against][phase]
                shares.append(f"{mine / other:.3f}")
            mine = sides["model"]["int8"][phase] / 1e6
            rows.append([price, f"{phase[0]} {phase[1]:,}", f"{mine:,.2f}", *shares])
    columns = ["prices", "phase", "int8", *(f"{a} of {b} twin" for a, b in PAIRS)]
    return f"{head}\n\n{markdown(columns, rows)}"


def tables() -> None:
    for kept in sorted(RESULTS.glob("energy-*.json")):
        text = table(json.loads(kept.read_text(encoding="utf-8")), kept.stem.partition("-")[2])
        write_text(kept.with_suffix(".md"), text)
        fill_pages(kept.stem, text)
        print(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    run_parser = commands.add_parser("run")
    run_parser.add_argument("--name", required=True)
    run_parser.add_argument("--model", type=Path, required=True)
    run_parser.add_argument("--control", type=Path, required=True)
    run_parser.add_argument("--data", required=True)
    run_parser.add_argument("--context", type=int, default=128)
    run_parser.add_argument("--tokens", type=int, default=2048)
    commands.add_parser("table")
    args = parser.parse_args()
    if args.command == "run":
        run(args)
    tables()


if __name__ == "__main__":
    main()
