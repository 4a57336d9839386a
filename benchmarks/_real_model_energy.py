"""Estimated energy of the real model's rows, in full, beside the dense model."""

from __future__ import annotations

import argparse
import json
from typing import Any

from _sweep import commit
from _windows import token_ids, windows_of
from spikeformers.reporting.tables import markdown
from spikeformers.storage import write_text

DENSE = "dense, int8"


def energy_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--text", required=True, help="whose events are counted")
    parser.add_argument("--windows", type=int, default=4, help="how many of it")


def energy(args: argparse.Namespace) -> None:
    """Microjoules per token of each row's model and of the dense one, kept as `energy.json`."""
    import torch

    from real_model import CONTEXT, ENGINE, MODEL, converted
    from spikeformers.conversion import load_source
    from spikeformers.energy import INT8, Phase, count_over, ledger_of, load_table

    torch.set_num_threads(1)
    dense, tokenizer = load_source(MODEL)
    calibration = torch.tensor(windows_of(token_ids(tokenizer, args.calibration), 4, CONTEXT))
    text = torch.tensor(windows_of(token_ids(tokenizer, args.text), args.windows, CONTEXT))
    prices, energies = load_table("horowitz45"), {}
    phases = (Phase("decode", CONTEXT, 1), Phase("prefill", CONTEXT, CONTEXT))
    models: dict[str, dict[str, Any]] = {DENSE: {}}
    for row, how in ENGINE.items():  # the prices know no weights of four bits
        models.setdefault(f"{row.removeprefix('engine, ').rpartition(', ')[0]}, int8", how)
    for name, how in models.items():
        model = converted(dense, tokenizer, how, calibration) if how else dense
        counted = count_over(model, [text])
        energies[name] = {
            phase.name: float(ledger_of(counted, INT8, phase, prices).picojoules) / 1e6
            for phase in phases
        }
        print(name, energies[name], flush=True)
    record = {
        **{"tokens": text.numel(), "context": CONTEXT, "prices": "horowitz45"},
        **{"commit": commit(), "microjoules": energies},
    }
    write_text(args.folder / "energy.json", json.dumps(record, indent=1) + "\n")


def energy_table(record: dict[str, Any]) -> str:
    """Microjoules per token by model, and shares of the dense model's."""
    energies = record["microjoules"]
    lines = []
    for name, of in energies.items():
        cells = [name]
        for phase, microjoules in of.items():
            share = microjoules / energies[DENSE][phase]
            cells += [f"{microjoules:,.0f}", "" if name == DENSE else f"{share:.3f}"]
        lines.append(cells)
    columns = ["model"]
    for phase in energies[DENSE]:
        columns += [f"{phase} at {record['context']}, uJ/token", "of the dense one"]
    return (
        f"Energy in full, memory included, weights of int8, at 45 nm prices; events counted over "
        f"{record['tokens']:,} tokens, commit {record['commit']}. Estimated.\n\n"
        f"{markdown(columns, lines)}"
    )
