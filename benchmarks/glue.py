"""A small WE-Spikingformer and its dense twin, fine-tuned alike on five tasks of GLUE.

    spikeformers pretrain --preset we-spikingformer-tiny --data TEXT --out runs/we
    spikeformers pretrain --preset we-spikingformer-tiny --data TEXT --out runs/we-twin --control
    python benchmarks/glue.py run --spiking runs/we --dense runs/we-twin --data GLUE --jobs 2
    python benchmarks/glue.py run --spiking runs/we --dense runs/we-twin --data GLUE --jobs 2
                                  --name glue-searched --search --steps 400
    python benchmarks/glue.py table

Both are pretrained on the same tokens; every row is one model on one task, with the same settings
and order of examples for both. Nothing is selected on the dev set: with ``--search`` each row has a
learning rate of its own, chosen by the loss of every tenth training example, on which no run of a
search is trained. ``--steps 0`` takes the task's epochs of SpikeLM's recipe. Scores are measured,
on the dev set, in percent.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from _sweep import Sweep, at_best_rate, mean, search_table
from spikeformers.reporting.tables import markdown

TASKS = ("sst2", "mrpc", "rte", "cola", "stsb")
MODELS = ("dense twin", "spiking")
RATES = (2.5e-4, 5e-4, 1e-3)
"""Where each row's search for its learning rate begins."""
HELD_OUT_EVERY = 10
ROWS = {f"{model}, {task}": (model, task) for task in TASKS for model in MODELS}


def train_one(args: argparse.Namespace, out: Path) -> dict[str, Any] | None:
    """Fine-tune (or resume) one model on one task with one seed."""
    from spikeformers.data.glue import load_sentences
    from spikeformers.evaluation.provenance import software_record
    from spikeformers.models import load_model
    from spikeformers.models.classifier import load_classifier
    from spikeformers.training import TrainConfig, train
    from spikeformers.training.glue import SentenceFinetuning, SentenceStore, measure_run

    who, name = ROWS[args.row]
    data = load_sentences(name, Path(args.data))
    trained_on = held_out_of(data) if args.rate else data
    folder = args.spiking if who == "spiking" else args.dense
    model, tokenizer = load_classifier(folder, data.task.labels, args.seed)
    an_epoch = -(-len(trained_on.train) // args.batch)
    config = TrainConfig(
        steps=args.steps or data.task.epochs * an_epoch,
        batch_size=args.batch,
        context=args.context,
        learning_rate=args.rate or args.learning_rate,
        schedule="linear",
        min_learning_rate_ratio=0.0,
        warmup_ratio=0.1,
        betas=(0.9, 0.999),
        weight_decay=0.01,
        seed=args.seed,
        threads=1,
        eval_every=an_epoch,
        save_every=an_epoch,
        keep_checkpoints=1,
        log_every=50,
    )
    began = time.process_time()
    ended = train(
        model,
        SentenceStore(trained_on),
        tokenizer,
        out,
        config,
        task=SentenceFinetuning(model, {"started_from": folder}),
        resume=(out / "run.json").is_file(),
        progress=False,
    )
    if ended.interrupted:
        return None
    spent = time.process_time() - began
    report = measure_run(out, *load_model(out), trained_on, software_record())
    kept = ("task", "dev", "dev_majority", "selection", "examples", "data_sha256", "parameters")
    before, loss = pretraining(Path(folder))
    return {key: report[key] for key in kept} | {
        "setting": {"steps": args.steps, "batch": args.batch, "context": args.context},
        "learning_rate": config.learning_rate,
        "pretrained": before,
        "pretrained_loss": loss,
        "steps": config.steps,
        "train_cpu_seconds": spent,
        **(of_search(report, data) if args.rate else {}),
    }


def held_out_of(data: Any) -> Any:
    """The task with every tenth training example as its dev set, and its own dev set as a test."""
    places = range(len(data.train))
    held = [i for i in places if i % HELD_OUT_EVERY == HELD_OUT_EVERY - 1]
    rest = [i for i in places if i % HELD_OUT_EVERY != HELD_OUT_EVERY - 1]

    def part(chosen: list[int]) -> Any:
        texts, labels = data.train.texts, data.train.labels
        return replace(
            data.train, texts=[texts[i] for i in chosen], labels=[labels[i] for i in chosen]
        )

    (dev,) = data.dev.items()
    return replace(data, train=part(rest), dev={dev[0]: part(held)}, test={"dev": dev[1]})


def of_search(report: dict[str, Any], data: Any) -> dict[str, Any]:
    """What chose the rate, and the scores on the task's own dev set."""
    from spikeformers.training.glue.metrics import majority_scores

    (dev,) = data.dev.values()
    return {
        "validation_loss": report["dev"]["loss"],
        "dev": report["test"],
        "dev_majority": majority_scores(data.task.metrics, dev.labels, data.task.num_labels),
    }


def pretraining(folder: Path) -> tuple[dict[str, Any], float]:
    """What a model has been through, the same for a twin; its last loss, nats per masked token."""
    from spikeformers.training.journal import read_metrics

    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    keys = ("steps", "batch_size", "context", "learning_rate", "seed")
    corpus, tokenizer = run["data"]["corpus"]["digest"], run["data"]["tokenizer"]["digest"]
    losses = [
        x["loss"] for x in read_metrics(folder / "metrics.jsonl") if x["kind"] == "validation"
    ]
    settings = {key: run["config"][key] for key in keys}
    return settings | {"corpus": corpus, "tokenizer": tokenizer}, losses[-1]


def table(name: str, results: list[dict[str, Any]]) -> str:
    """One line a task and model; the two means over all tasks where each has its runs."""
    from spikeformers.training.glue import summarise

    commits = ", ".join(sorted({run["commit"] for run in results}))
    searched = "validation_loss" in results[0]
    before = results[0]["pretrained"]
    rates = (
        "the rate of each row chosen by the loss of every tenth training example, which none of "
        "these runs was trained on (rates searched, with the loss of the first seed, below)"
        if searched
        else "rates not searched"
    )
    head = (
        f"{name}: dev sets, in percent, mean ± deviation over seeds from 0; nothing selected on "
        f"them; {rates}; majority is the same answer to the whole dev set; pretrained for "
        f"{before['steps']:,} steps of {before['batch_size']} x {before['context']} tokens, at a "
        f"rate stated below; commits {commits}; torch {results[0]['torch']}, "
        f"{results[0]['machine']}. Measured."
    )
    rows = []
    lines = []
    for model in MODELS:
        mine = [run for task in TASKS for run in at_best_rate(results, f"{model}, {task}")]
        if not mine:
            continue
        summary = summarise(mine)
        standard, paper = (
            f"{summary['means'][way]:.2f} (majority {summary['majority_means'][way]:.2f})"
            for way in ("standard", "paper")
        )
        lines.append(
            f"{model}: masked perplexity {math.exp(mine[0]['pretrained_loss']):.1f} before, "
            f"pretrained at {mine[0]['pretrained']['learning_rate']:g}; mean over "
            f"{', '.join(summary['means_over'])}: standard {standard}, as the papers' {paper}."
        )
        for task, figures in summary["tasks"].items():
            runs = [run for run in mine if run["task"] == task]
            for metric in figures["metrics"]:
                values = [100 * run["dev"][metric] for run in runs]
                steps, rate = runs[0]["steps"], runs[0]["learning_rate"]
                rows.append(
                    [task, metric, model, str(len(runs)), mean(values, 1),
                     f"{figures['majority'][metric]:.1f}", f"{steps:,}",
                     f"{rate:g}", f"{sum(r['train_cpu_seconds'] for r in runs) / len(runs):.0f}"]
                )  # fmt: skip
    rows.sort(key=lambda row: (TASKS.index(row[0]), row[1], MODELS.index(row[2])))
    columns = ["task", "metric", "model", "seeds", "score", "majority"]
    columns += ["steps", "rate", "train CPU s"]
    text = f"{head}\n\n{markdown(columns, rows)}\n"
    if searched:
        labels = {row: row for row in ROWS}
        text += f"{search_table(results, labels, 'held-out loss')}\n"
    return text + "\n\n".join(lines) + "\n"


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--spiking", required=True, help="run folder of the pretrained model")
    parser.add_argument("--dense", required=True, help="run folder of its dense twin")
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    parser.set_defaults(steps=0, batch=32, name="glue")


SEEDS = dict.fromkeys(ROWS, (0, 1, 2))

if __name__ == "__main__":
    rates = dict.fromkeys(ROWS, RATES)
    Sweep(__file__, "glue", SEEDS, train_one, table, options, rates).main(__doc__)
