"""Quality of the spiking variants and their dense twins at equal tokens.

    python benchmarks/quality.py run --data builtin --tokenizer bpe:4096 --steps 2000 --jobs 2
    python benchmarks/quality.py run --data WIKITEXT --name wikitext-2-searched --search --jobs 2
    python benchmarks/quality.py table

``run`` trains every row of ROWS through the library's own loop, one process and one thread each,
under ``runs/quality/``; rows that are done are kept and unfinished ones resume. ``table`` writes
``benchmarks/results/quality-NAME.json`` and ``.md``, and puts the tables into README and
docs/results/ between the marks ``<!-- quality-NAME -->`` and ``<!-- end -->``. All rows of a
corpus see the same tokens in the same order; validation is the whole validation split. With
``--search`` each row has a learning rate of its own, chosen on validation, and its figures are of
the test split. Losses and times are measured, energies estimated (45 nm prices of the papers).
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _sweep import Sweep, at_best_rate, cpu_seconds, mean, search_table
from _training import train_row
from spikeformers.models import DEAD_ZONES
from spikeformers.reporting.tables import markdown

SETTING = ("tokenizer", "preset", "steps", "batch", "context")
THREE = (0, 1, 2)


@dataclass(frozen=True)
class Row:
    """One line of the table: a preset's overrides, or its dense twin with given positions."""

    model: dict[str, Any] = field(default_factory=dict)
    twin: str | None = None
    rates: tuple[float, ...] = (2.5e-3, 5e-3, 1e-2)
    """Where a search for its learning rate begins."""
    shift: bool = False
    """A twin whose maps read, as with ``token_shift``, half of the token before."""
    learning_rate: float = 5e-3
    optimizer: str = "adamw"
    seeds: tuple[int, ...] = (0,)
    label: str | None = None
    """Its name in the table, where it is not the key."""


MUON_RATES = (5e-3, 1e-2)
"""Where a search begins with Muon."""
NI_LIF: dict[str, Any] = {"neuron": "ni-lif"}
"""The paper's neuron, with norms behind the maps, in place of the preset's dead zones."""
ROWS: dict[str, Row] = {
    "dense-rotary": Row(twin="rotary", seeds=THREE, label="dense twin, rotary positions"),
    "cwssa-hard": Row(NI_LIF, seeds=THREE, label="**spiking, NI-LIF, CWSSA hard**"),
    "dead zones, budget 0.35": Row(
        DEAD_ZONES, seeds=THREE, label="spiking, dead zones, one winner, budget 0.35"
    ),
    "dead zones, budget 0.15": Row(
        {**DEAD_ZONES, "budget": 0.15},
        seeds=THREE,
        label="spiking, dead zones, one winner, budget 0.15",
    ),
    "dead zones, powers of two, budget 0.35": Row(
        {"attention": "power-of-two", "weight_digits": 1, "budget": 0.35},
        seeds=THREE,
        label="spiking, dead zones, graded (one digit), budget 0.35",
    ),
    "dead zones, two binary digits, budget 0.35": Row(
        {"attention": "power-of-two", "weight_digits": 2, "budget": 0.35},
        seeds=THREE,
        label="**spiking, dead zones, graded (two digits), budget 0.35**",
    ),
    "dead zones, two binary digits, budget 0.15": Row(
        {"attention": "power-of-two", "weight_digits": 2, "budget": 0.15},
        seeds=THREE,
        label="**spiking, dead zones, graded (two digits), budget 0.15**",
    ),
    "dense-rotary, Muon": Row(
        twin="rotary",
        optimizer="muon",
        rates=MUON_RATES,
        seeds=THREE,
        label="dense twin, rotary positions, Muon",
    ),
    "dead zones, budget 0.35, Muon": Row(
        DEAD_ZONES,
        optimizer="muon",
        rates=MUON_RATES,
        seeds=THREE,
        label="spiking, dead zones, one winner, budget 0.35, Muon",
    ),
    "dense-learned": Row(
        twin="learned", seeds=THREE, label="dense twin, learned positions (GPT-2)"
    ),
    "softmax": Row(
        {**NI_LIF, "attention": "softmax"}, seeds=THREE, label="spiking, NI-LIF, softmax"
    ),
    "cwssa-top3": Row(
        {**NI_LIF, "wta": "top_k", "winners": 3},
        seeds=THREE,
        label="spiking, NI-LIF, CWSSA top-3",
    ),
    "ssa": Row(
        {**NI_LIF, "attention": "ssa"},
        seeds=THREE,
        label="spiking, NI-LIF, SSA (learned positions)",
    ),
    "a2os2a": Row(
        {**NI_LIF, "attention": "a2os2a"},
        seeds=THREE,
        label="spiking, NI-LIF, A2OS2A (learned positions)",
    ),
    "dense-rotary, token shift": Row(
        twin="rotary", shift=True, seeds=THREE, label="dense twin, rotary positions, token shift"
    ),
    "cwssa-hard, token shift": Row(
        {**NI_LIF, "token_shift": True},
        seeds=THREE,
        label="spiking, NI-LIF, CWSSA hard, token shift",
    ),
    "cwssa-hard, 8 levels": Row({**NI_LIF, "levels": 8}),
    "cwssa-hard, 4 levels": Row({**NI_LIF, "levels": 4}),
    "cwssa-hard, any density": Row(
        {**NI_LIF, "firing_rate_weight": 0.0},
        label="spiking, NI-LIF, CWSSA hard, no firing-rate target",
    ),
    "cwssa-hard, target 0.2": Row({**NI_LIF, "firing_rate_target": 0.2}),
    "cwssa-hard, target 0.05": Row({**NI_LIF, "firing_rate_target": 0.05}),
    "cwssa-hard, head 0.1": Row({**NI_LIF, "firing_rate_targets": {"head": 0.1}}),
    "cwssa-hard, real head": Row({**NI_LIF, "spiking_head": False}),
    "cwssa-hard, learned positions": Row({**NI_LIF, "position": "learned"}),
}


TARGETS = {
    "cwssa-hard, any density": "none",
    "cwssa-hard, target 0.2": "0.2",
    "cwssa-hard": "0.1",
    "cwssa-hard, head 0.1": "0.1, and 0.1 before the head",
    "cwssa-hard, target 0.05": "0.05",
}
"""Rows of the table of density against quality; those that are in it alone have no label."""


def train_one(args: argparse.Namespace, out: Path) -> dict[str, Any] | None:
    """Train (or resume) one row with one seed."""
    from spikeformers.data import load_corpus, make_tokenizer, tokenize_corpus
    from spikeformers.models import build_config, build_model, control_of

    row = ROWS[args.row]
    corpus = load_corpus(args.data)
    tokenizer = make_tokenizer(args.tokenizer, corpus)
    store = tokenize_corpus(corpus, tokenizer)

    def build() -> Any:
        spiking = build_config(args.preset, len(tokenizer), row.model)
        model = build_model(control_of(spiking, row.twin) if row.twin else spiking)  # type: ignore[arg-type]
        if row.shift:
            shift_inputs(model)
        return model

    rate = args.rate or row.learning_rate
    kinds = {"optimizer": row.optimizer, "compile": args.compile}
    done = train_row(args, out, build, (store, tokenizer), rate, **kinds)
    return done and {"setting": {key: getattr(args, key) for key in SETTING}, **done[1]}


def shift_inputs(twin: Any) -> None:
    """Have the first maps of attention and MLP read half of the token before."""
    from spikeformers.layers import TokenShift

    shift = TokenShift(twin.config.hidden_size)
    for layer in twin.gpt_neox.layers:
        for linear in (layer.attention.query_key_value, layer.mlp.dense_h_to_4h):
            linear.register_forward_pre_hook(lambda _, inputs: (shift(inputs[0]),))


def table(name: str, results: list[dict[str, Any]]) -> str:
    """One line per row, mean and sample deviation over its seeds."""
    setting = results[0]["setting"]
    tested = "validation_loss" in results[0]
    searched = tested and len({run["learning_rate"] for run in results}) > 1
    commits = ", ".join(sorted({run["commit"] for run in results}))
    measured = (
        "Losses measured over the whole test split, at the learning rate that each row's search "
        "chose by the validation split (rates searched, with the validation loss of the first "
        "seed, below)"
        if searched
        else f"Losses measured over the whole {'test' if tested else 'validation'} split, all rows "
        "at one learning rate"
    )
    head = (
        f"{name}, {setting['tokenizer']}, {setting['preset']}, {setting['steps']:,} steps of "
        f"{setting['batch']} x {setting['context']} tokens; seeds from 0; commits {commits}; "
        f"torch {results[0]['torch']}, {results[0]['machine']}. {measured}; energies estimated, by "
        "the papers' sum and with elementwise operations."
    )
    rows = []
    for key, row in ROWS.items():
        runs = at_best_rate(results, key)
        if not runs or (key in TARGETS and row.label is None):
            continue
        energy = [r["energy"] for r in runs]
        spiking = energy[0]["by_neuron"]
        rows.append(
            [
                row.label or key,
                str(len(runs)),
                f"{runs[0]['learning_rate']:g}",
                mean([r["perplexity"]["nats_per_token"] for r in runs], 3),
                mean([r["perplexity"]["bits_per_byte"] for r in runs], 3),
                mean([e["density"] for e in energy], 3) if spiking else "1",
                _read(runs) if spiking else "1",
                mean([e["picojoules_per_token"] / 1e3 for e in energy], 0),
                mean([e["with_elementwise_per_token"] / 1e3 for e in energy], 0),
                cpu_seconds(runs),
                f"{runs[0]['parameters']:,}",
            ]
        )
    columns = [
        *(
            "row",
            "seeds",
            "rate",
            "nats/token",
            "bits/byte",
            "density",
            "weights read",
            "nJ/token, papers'",
        ),
        *("nJ/token, with elementwise", "train CPU s", "parameters"),
    ]
    text = f"{head}\n\n{markdown(columns, rows)}"
    if not searched:
        return text
    labels = {key: row.label or key for key, row in ROWS.items()}
    return f"{text}\n{search_table(results, labels, 'validation nats/token')}"


def _read(runs: list[dict[str, Any]]) -> str:
    """Share of weights read per token; a dash for results from before it was recorded."""
    shares = [run["weights_read"] for run in runs if run.get("weights_read") is not None]
    return mean(shares, 3) if shares else "-"


def density_table(results: list[dict[str, Any]]) -> str:
    """Density against quality of hard WTA, by firing-rate target; empty with a single row."""
    rows = []
    for key, target in TARGETS.items():
        runs = at_best_rate(results, key)
        if runs:
            rows.append(
                [
                    target,
                    str(len(runs)),
                    mean([r["perplexity"]["bits_per_byte"] for r in runs], 3),
                    mean([r["energy"]["density"] for r in runs], 3),
                    *(
                        mean([_density(r, part) for r in runs], 3)
                        for part in ("attention", "mlp.fire_in", "mlp.fire_hidden", "head_neuron")
                    ),
                    mean([r["energy"]["picojoules_per_token"] / 1e3 for r in runs], 0),
                ]
            )
    columns = [
        *("target", "seeds", "bits/byte", "density", "attention", "MLP, in", "MLP, hidden", "head"),
        "nJ/token, papers'",
    ]
    return markdown(columns, rows) if len(rows) > 1 else ""


def curve_table(results: list[dict[str, Any]]) -> str:
    """Validation losses while training, of rows that recorded them; empty with a single row."""
    curves = {}
    for key, row in ROWS.items():
        runs = [
            r["validation_by_step"] for r in at_best_rate(results, key) if "validation_by_step" in r
        ]
        if runs:
            curves[row.label or key] = runs
    steps = [step for runs in list(curves.values())[:1] for step in runs[0]]
    rows = [
        [label, *(mean([run[step] for run in runs], 3) for step in steps)]
        for label, runs in curves.items()
    ]
    columns = ["validation nats/token at step", *(f"{int(step):,}" for step in steps)]
    return markdown(columns, rows) if len(rows) > 1 else ""


def _density(run: dict[str, Any], part: str) -> float:
    """Mean density of the neuron layers whose name has ``part``."""
    layers = run["energy"]["by_neuron"]
    return statistics.mean(d["density"] for name, d in layers.items() if part in name)


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tokenizer", default="bpe:4096")
    parser.add_argument("--preset", default="wd-spikingformer-tiny")
    parser.add_argument("--compile", action="store_true", help="torch.compile the models")


SEEDS = {key: row.seeds for key, row in ROWS.items()}
RATES = {key: row.rates for key, row in ROWS.items()}

if __name__ == "__main__":
    more = {"density": density_table, "curve": curve_table}
    Sweep(__file__, "quality", SEEDS, train_one, table, options, RATES, more).main(__doc__)
