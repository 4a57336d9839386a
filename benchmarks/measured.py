"""Measurements of a model on this machine: time, memory, counted bytes, joules if there is a meter.

    python benchmarks/measured.py MODEL [--data builtin] [--name measured-tiny]

The model in PyTorch, a new dense twin of its shape, and the engine take turns, each in a separate
process (`spikeformers.evaluation.measured`). Writes results/NAME.json and .md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from _sweep import save_table
from spikeformers.export import pack
from spikeformers.reporting.measured_tables import notes, tables
from spikeformers.reporting.tables import markdown
from spikeformers.studies import measure_folder, read_input
from spikeformers.studies.machine import machine, versions
from spikeformers.studies.twin import twin_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", default="builtin")
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--name", default="measured-tiny")
    args = parser.parse_args()
    source = read_input(args.model, args.data, tokens=512, images=8)
    twin, _ = twin_of(source.model.config)
    record = measure_folder(
        args.model, source.model, twin, source.batches, pack=pack,
        prompt_tokens=args.prompt, new_tokens=args.new, repeats=args.repeats,
    )  # fmt: skip
    kept = {
        "measured": record.as_dict(),
        "config": source.model.config.to_diff_dict(),
        "facts": source.facts,
        "machine": machine(),
        "versions": versions(),
    }
    lines = [
        *(
            f"**{table.title}**\n\n{markdown(table.columns, table.rows)}"
            for table in tables(record)
        ),
        *(f"- {note}" for note in notes(record)),
    ]
    save_table(args.name, "\n".join(lines) + "\n", kept)


if __name__ == "__main__":
    main()
