"""Measurements of a model on this machine: time, memory, counted bytes, joules if there is a meter.

    python benchmarks/measured.py MODEL [--data builtin] [--name measured-tiny]

The model in PyTorch, a new dense twin of its shape, and the engine take turns, each in a separate
process (`spikeformers.evaluation.measured`). Writes results/NAME.json and .md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from _sweep import markdown_table, save_table
from spikeformers.cli._counting import read_material
from spikeformers.cli._measured import measure_folder
from spikeformers.evaluation.measured import Table, tables
from spikeformers.evaluation.measured.tables import notes
from spikeformers.models import build_model, control_of
from spikeformers.reporting.machine import machine, versions


def markdown(table: Table) -> str:
    return f"**{table.title}**\n\n" + markdown_table(table.columns, table.rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", default="builtin")
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--name", default="measured-tiny")
    args = parser.parse_args()
    read = read_material(
        args.model, args.data, "validation", tokens=512, text_field="text", images=8, root=""
    )
    torch.manual_seed(0)
    twin = build_model(control_of(read.model.config))
    found = measure_folder(
        args.model, read.model, twin, read.batches,
        prompt_tokens=args.prompt, new_tokens=args.new, repeats=args.repeats,
    )  # fmt: skip
    kept = {
        "measured": found.as_dict(),
        "config": read.model.config.to_diff_dict(),
        "facts": read.facts,
        "machine": machine(),
        "versions": versions(),
    }
    lines = [*(markdown(table) for table in tables(found)), *(f"- {x}" for x in notes(found))]
    save_table(args.name, "\n".join(lines) + "\n", kept)


if __name__ == "__main__":
    main()
