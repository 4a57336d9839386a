"""Ablation of A2OS2A on images: what K and V are, other attentions, the dense twin.

    python benchmarks/vision.py run --data my_images/ --name cifar-10-jpeg --steps 2000 --jobs 2
    python benchmarks/vision.py run --data digits --name digits-searched --search --jobs 2
                                    --preset a2os2a-digits --steps 300 --batch 64
                                    --rows 'dense|a2os2a|all-binary|relu-k|ternary-v'
    python benchmarks/vision.py table

``run`` trains every row of ROWS through the library's own loop, one process and one thread each
(``--device cuda`` where there is one), under ``runs/vision/``; rows that are done are kept and
unfinished ones resume. All rows see the same images in the same order on the same schedule.
``--set`` changes the model of every row, its twin's too: ``--set image_size=28``. With ``--search``
each row has a learning rate of its own, chosen by the cross-entropy of the whole validation split.
``table`` writes ``benchmarks/results/vision-NAME.json`` and ``.md``, and puts the tables into
docs/results/ between the marks ``<!-- vision-NAME -->`` and ``<!-- end -->``. Accuracy is of the
test split (validation where there is none), whole unless ``--limit``, in float32, measured;
energies are estimated (45 nm prices of the papers).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from _sweep import Sweep, at_best_rate, mean, search_table
from spikeformers.reporting.tables import markdown

SETTING = ("preset", "steps", "batch", "augment")
THREE = (0, 1, 2)
COUNTED = 64  # images that energy and entropy are measured on
RATES = (1e-3, 2e-3, 4e-3)
"""Where each row's search for its learning rate begins."""


@dataclass(frozen=True)
class Row:
    """One line of the table: a preset's overrides, or its dense twin."""

    model: dict[str, Any] = field(default_factory=dict)
    twin: bool = False
    seeds: tuple[int, ...] = THREE
    learning_rate: float | None = None
    """Its own, where not everybody's."""
    label: str | None = None
    """Its name in the table, where it is not the key."""


ROWS: dict[str, Row] = {
    "dense": Row(twin=True, label="dense twin (ViT)"),
    "dense, slower": Row(
        twin=True, seeds=(0,), learning_rate=5e-4, label="dense twin (ViT), rate 0.0005"
    ),
    "a2os2a": Row(label="**A2OS2A: binary Q, ReLU K, ternary V**"),
    "all-binary": Row(
        {"key_neuron": "binary", "value_neuron": "binary"}, label="binary Q, K and V"
    ),
    "relu-k": Row({"value_neuron": "binary"}, label="ReLU K only"),
    "ternary-v": Row({"key_neuron": "binary"}, label="ternary V only"),
    "ssa": Row({"attention": "ssa"}, label="SSA (Spikformer)"),
    "wssa": Row({"attention": "wssa"}, label="WSSA (winner-take-all)"),
    "normed": Row({"attention_norm": True}, seeds=(0,), label="A2OS2A, norm before its neuron"),
    "no-projection": Row({"output_projection": False}, seeds=(0,), label="A2OS2A without W_o"),
}


def train_one(args: argparse.Namespace, out: Path) -> dict[str, Any] | None:
    """Train (or resume) one row with one seed."""
    from transformers import set_seed

    from spikeformers.data.images import Prep, load_images
    from spikeformers.energy import energy_of
    from spikeformers.evaluation import classify, entropy_of
    from spikeformers.models import build_model, build_vision_config, control_of
    from spikeformers.training import TrainConfig, train
    from spikeformers.training.vision import TRAINING, ImageStore, VisionConfig, VisionTask

    row = ROWS[args.row]
    data = load_images(args.data, root=args.root)
    chosen = dict(args.set)
    spiking = build_vision_config(
        args.preset, {"num_labels": len(data.classes), **chosen, **row.model}
    )
    store = ImageStore(data, Prep(spiking.image_size, spiking.num_channels))
    set_seed(args.seed)
    model = build_model(control_of(spiking) if row.twin else spiking)
    config, vision = (
        {k: v for k, v in TRAINING[args.preset].items() if k in kind.__dataclass_fields__}
        for kind in (TrainConfig, VisionConfig)
    )
    config |= {
        **{"steps": args.steps, "batch_size": args.batch, "seed": args.seed, "threads": 1},
        "learning_rate": (
            args.rate or row.learning_rate or args.learning_rate or config["learning_rate"]
        ),
        **{"device": args.device},
        **{"eval_every": max(1, args.steps // 10), "save_every": max(1, args.steps // 10)},
        **{"keep_checkpoints": 1, "eval_batches": -(-args.curve // args.batch)},
        **{"precision": args.precision},
    }
    augment = VisionConfig.from_dict(vision if args.augment == "preset" else {})
    began = time.process_time()
    result = train(
        model,
        store,
        store.prep,
        out,
        TrainConfig.from_dict(config),
        task=VisionTask(model, augment),
        resume=(out / "run.json").is_file(),
        progress=False,
    )
    if result.interrupted:
        return None
    spent = time.process_time() - began
    split = "test" if "test" in data.splits else "validation"
    report = classify(model, store.batches(split, 128, args.limit), data.classes)
    chosen_by = {}
    if args.rate:
        if split == "validation":
            raise SystemExit(
                "--search: the data has no test split, so that figures would be of the images that "
                "chose the rate. Give data with a test split."
            )
        validation = classify(model, store.batches("validation", 128), data.classes)
        chosen_by = {"validation_loss": validation.loss, "validation": validation.as_dict()}
    model.cpu()
    energy = energy_of(model, store.batches(split, 8, COUNTED))
    entropies = entropy_of(model, store.batches(split, 8, COUNTED))
    return {
        "setting": {key: getattr(args, key) for key in SETTING} | _beyond_defaults(args),
        "learning_rate": config["learning_rate"],
        "vision": augment.as_dict(),
        "parameters": model.num_parameters(),
        "images_seen": result.tokens_seen,
        "train_seconds": result.seconds,
        "train_cpu_seconds": spent,
        "split": split,
        "accuracy": report.accuracy,
        "report": report.as_dict(),
        **chosen_by,
        "curve": _curve(out),
        "entropy": [entropy.as_dict() for entropy in entropies],
        "energy": {k: v for k, v in energy.as_dict().items() if k not in ("products", "prices")},
        "data": {"sha256": data.digest, "split_by": data.split_by},
    }


def _beyond_defaults(args: argparse.Namespace) -> dict[str, Any]:
    """What a table's head says beyond SETTING, where it was asked for."""
    choices = {"set": dict(args.set), "precision": args.precision, "limit": args.limit}
    usual = {"set": {}, "precision": "fp32", "limit": 0}
    return {key: value for key, value in choices.items() if value != usual[key]}


def _curve(out: Path) -> list[tuple[int, float]]:
    """(images, validation accuracy) of a run."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [
        (entry["images_seen"], entry["accuracy"])
        for entry in lines
        if entry["kind"] == "validation"
    ]


def _curves(results: list[dict[str, Any]]) -> list[str]:
    """One line per row that has them: accuracy by images seen, mean over seeds."""
    lines = []
    for key, row in ROWS.items():
        curves = [run["curve"] for run in at_best_rate(results, key) if run.get("curve")]
        if curves:
            points = ", ".join(
                f"{at[0][0]:,}: {100 * statistics.mean(value for _, value in at):.1f}"
                for at in zip(*curves, strict=True)
            )
            lines.append(f"Validation accuracy by images, {row.label or key}: {points}.")
    return lines


def table(name: str, results: list[dict[str, Any]]) -> str:
    """One line per row, mean and sample deviation over its seeds."""
    setting = results[0]["setting"]
    searched = "validation_loss" in results[0]
    commits = ", ".join(sorted({run["commit"] for run in results}))
    preset = setting["preset"] + "".join(f", {k} {v}" for k, v in setting.get("set", {}).items())
    tested = (
        f"{setting['limit']:,} images, spread evenly, of the" if "limit" in setting else "the whole"
    )
    rates = (
        "the rate of each row chosen by the validation split (rates searched, with the loss of "
        "the first seed, below)"
        if searched
        else "rates not searched"
    )
    head = (
        f"{name}, {preset}, {setting['steps']:,} steps of {setting['batch']} images in "
        f"{setting.get('precision', 'fp32')}, augmentation: {setting['augment']}, {rates}; "
        f"seeds from 0; commits {commits}; torch {results[0]['torch']}, {results[0]['machine']}. "
        f"Accuracy measured on {tested} {results[0]['split']} split; entropy of Q, K and V in "
        "bits per value, mean over the blocks, measured; energies estimated, by the papers' sum "
        "and with elementwise operations."
    )
    rows = []
    for key, row in ROWS.items():
        runs = at_best_rate(results, key)
        if not runs:
            continue
        energy = [r["energy"] for r in runs]
        spiking = energy[0]["by_neuron"]
        rows.append(
            [
                row.label or key,
                str(len(runs)),
                f"{runs[0]['learning_rate']:g}",
                mean([100 * r["accuracy"] for r in runs], 2),
                mean([e["density"] for e in energy], 3) if spiking else "1",
                " / ".join(_entropy(runs, role) for role in ("query", "key", "value"))
                if runs[0]["entropy"]
                else "-",
                mean([e["picojoules_per_token"] / 1e6 for e in energy], 1),
                mean([e["with_elementwise_per_token"] / 1e6 for e in energy], 1),
                f"{statistics.mean(r['train_cpu_seconds'] for r in runs):.0f}",
                f"{runs[0]['parameters']:,}",
            ]
        )
    columns = [
        *("row", "seeds", "rate", "accuracy, %", "density", "bits of Q / K / V"),
        *("uJ/image, papers'", "uJ/image, with elementwise", "train CPU s", "parameters"),
    ]
    text = f"{head}\n\n{markdown(columns, rows)}"
    if searched:
        labels = {key: row.label or key for key, row in ROWS.items()}
        text += f"\n{search_table(results, labels, 'validation cross-entropy')}"
    return "\n".join([text, *(f"{line}\n" for line in _curves(results))])


def _entropy(runs: list[dict[str, Any]], role: str) -> str:
    bits = [
        entropy["bits"] for run in runs for entropy in run["entropy"] if entropy["role"] == role
    ]
    return f"{statistics.mean(bits):.2f}"


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", default="a2os2a-cifar-2-256")
    parser.add_argument("--root", default="", help="folder of a data set named by --data")
    parser.add_argument("--augment", default="preset", choices=("preset", "none"))
    parser.add_argument(
        "--learning-rate", type=float, default=0.0, help="the preset's unless given"
    )
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"), help="of training")
    parser.add_argument("--curve", type=int, default=0, help="images a point of the curve; 0: all")
    parser.add_argument("--limit", type=int, default=0, help="images tested at the end; 0: all")
    parser.add_argument("--set", type=_pair, action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))


def _pair(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} must be KEY=VALUE")
    return key, yaml.safe_load(value)


SEEDS = {key: row.seeds for key, row in ROWS.items()}

if __name__ == "__main__":
    rates = dict.fromkeys(ROWS, RATES)
    Sweep(__file__, "vision", SEEDS, train_one, table, options, rates).main(__doc__)
