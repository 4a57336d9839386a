"""What alignment with a teacher is worth: BiSpikCLM with SpAD, without each term, and without all.

    python benchmarks/distill.py run --teacher runs/twin --data my_texts/ --steps 500 --jobs 2
    python benchmarks/distill.py run --teacher runs/twin --data my_texts/ --steps 500 --jobs 2
                                     --search --name searched
    python benchmarks/distill.py speed --data my_texts/ --name searched
    python benchmarks/distill.py table

Every row trains the same student from the same seed on the same tokens in the same order, all at
``--learning-rate``, or with ``--search`` each at a rate of its own, chosen on validation, with its
figures of the test split; the teacher's tokenizer is everybody's. The control is cross-entropy
alone. ``table`` adds the token ratio: how many tokens a row needs, by its own validation curve, for
the last loss of the control, over the control's tokens. The curve of a run that continues falls
later, as its learning rate does, so the ratio is an upper bound for shorter runs. Losses, agreement
and densities are measured, energies estimated (45 nm prices of the papers). ``speed`` decodes test
text with the students of the first seed in the engine (int8, one thread), in turns: run it on a
machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _speed import in_engine, load_speed, speed_options, speed_table, time_rows, with_huge_pages
from _sweep import Sweep, at_best_rate, cpu_seconds, mean, search_table
from spikeformers.reporting.tables import markdown
from spikeformers.storage import write_text

SETTING = ("steps", "batch", "context")
RATES = (2.5e-3, 5e-3, 1e-2)
ONLY_HTA: dict[str, Any] = {"ea": 0.0, "saa": 0.0, "sfa": 0.0, "sta": 0.0, "hta": 1.0}
NO_BIAS: dict[str, Any] = {"position": "learned"}
CONTROL = "cross-entropy only"


@dataclass(frozen=True)
class Row:
    """One line of the table: the student's and the distillation's overrides."""

    spad: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)


ROWS: dict[str, Row] = {
    CONTROL: Row(ONLY_HTA, seeds=(0, 1, 2)),
    "all five terms": Row(seeds=(0, 1, 2)),
    **{f"without {term}": Row({term: 0.0}) for term in ("ea", "saa", "sfa", "sta", "hta")},
    "sta and hta": Row({"ea": 0.0, "saa": 0.0, "sfa": 0.0}),
    "all five terms, T = 4": Row(model={"steps": 4}),
    "cross-entropy only, T = 4": Row(ONLY_HTA, {"steps": 4}),
    # Positions in the embedding: the scores stay integers, as in the paper's equation.
    "all five terms, no bias on the scores": Row(model=NO_BIAS, seeds=(0, 1, 2)),
    "cross-entropy only, no bias on the scores": Row(ONLY_HTA, NO_BIAS, seeds=(0, 1, 2)),
}


def train_one(args: argparse.Namespace, out: Path) -> dict[str, Any] | None:
    """Train (or resume) one row with one seed."""
    import torch
    from transformers import set_seed

    from spikeformers.data import load_corpus, tokenize_corpus
    from spikeformers.energy import energy_of
    from spikeformers.evaluation import agreement, perplexity
    from spikeformers.models import build_config, build_model, load_reference
    from spikeformers.training import TrainConfig, train
    from spikeformers.training.distillation import Distillation, SpADConfig

    row = ROWS[args.row]
    spad = SpADConfig(**row.spad)
    rate = args.rate or args.learning_rate
    teacher, tokenizer = load_reference(
        args.teacher,
        gguf_file=args.gguf_file,
        dtype=args.teacher_dtype,
        attentions="saa" in spad.active,
    )
    corpus = load_corpus(args.data)
    store = tokenize_corpus(corpus, tokenizer)
    held_out = store.split("test" if args.rate else "validation")
    set_seed(args.seed)
    vocabulary = teacher.config.vocab_size
    student = build_model(build_config(args.student, vocabulary, {"steps": 2, **row.model}))
    config = TrainConfig(
        steps=args.steps,
        batch_size=args.batch,
        context=args.context,
        learning_rate=rate,
        seed=args.seed,
        threads=1,
        log_every=50,
        eval_every=max(1, args.steps // 10),
        eval_batches=args.eval_batches,
        save_every=max(1, args.steps // 5),
        keep_checkpoints=1,
    )
    task = Distillation(student, teacher, spad, args.seed, args.cache_teacher)
    began, resumed = time.process_time(), (out / "run.json").is_file()
    result = train(
        student,
        store,
        tokenizer,
        out,
        config,
        resume=resumed,
        progress=False,
        task=task,
    )
    if result.interrupted:
        return None
    spent = time.process_time() - began
    limit = args.limit or None
    chosen_by = {}
    if args.rate:
        validation = perplexity(
            student, tokenizer, store.split("validation"), context=args.context, max_tokens=limit
        )
        chosen_by = {"validation_loss": validation.nats_per_token}
    report = perplexity(student, tokenizer, held_out, context=args.context, max_tokens=limit)
    tokens = torch.tensor(held_out.tokens[: 16 * args.context].astype("int64"))
    batch = [tokens.view(16, args.context)]
    mine, theirs = energy_of(student, batch), energy_of(teacher, batch)
    return {
        "setting": {key: getattr(args, key) for key in SETTING}
        | ({} if args.rate else {"learning_rate": rate}),
        "learning_rate": rate,
        **chosen_by,
        "student": args.student,
        "teacher": args.teacher_name or Path(args.teacher).name,
        "teacher_bits_per_byte": perplexity(
            teacher, tokenizer, held_out, context=args.context, max_tokens=limit
        ).bits_per_byte,
        "parameters": student.num_parameters(),
        "tokens_seen": result.tokens_seen,
        "train_seconds": result.seconds,
        "train_cpu_seconds": None if resumed else spent,
        "curve": _curve(out),
        "perplexity": report.as_dict(),
        "agreement": agreement(
            student, teacher, held_out, context=args.context, max_tokens=limit
        ).as_dict(),
        "energy": {k: v for k, v in mine.as_dict().items() if k not in ("products", "prices")},
        "teacher_picojoules_per_token": theirs.picojoules_per_token,
        "corpus": corpus.digest,
    }


def _curve(out: Path) -> list[tuple[int, float]]:
    """(tokens, validation nats per token) of a run."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [
        (entry["tokens_seen"], entry["loss"]) for entry in lines if entry["kind"] == "validation"
    ]


def tokens_to_reach(curve: list[tuple[int, float]], loss: float) -> float | None:
    """Tokens at which a falling curve meets ``loss``, between its points by a line."""
    before: tuple[int, float] | None = None
    for tokens, value in curve:
        if value <= loss:
            if before is None or before[1] == value:
                return float(tokens)
            part = (before[1] - loss) / (before[1] - value)
            return before[0] + part * (tokens - before[0])
        before = (tokens, value)
    return None


def table(name: str, results: list[dict[str, Any]]) -> str:
    """One line per row, mean and sample deviation over its seeds."""
    first = results[0]
    setting = first["setting"]
    commits = ", ".join(sorted({run["commit"] for run in results}))
    searched = "validation_loss" in first
    measured = f"{first['perplexity']['tokens']:,} tokens of " + (
        "the test split, at the learning rate that each row's search chose by the validation split"
        if searched
        else f"the validation split, all rows at a learning rate of {setting['learning_rate']:g}"
    )
    head = (
        f"{name}: {first['student']} (T = 2 unless stated, {first['parameters']:,} parameters) "
        f"from {first['teacher']} ({first['teacher_bits_per_byte']:.3f} bits/byte, "
        f"{first['teacher_picojoules_per_token'] / 1e3:,.0f} nJ/token); {setting['steps']:,} steps "
        f"of {setting['batch']} x {setting['context']} tokens; "
        f"seeds from 0; commits {commits}; torch {first['torch']}, {first['machine']}. Losses, "
        f"agreement and densities measured on {measured}; energies estimated."
    )
    control = {r["seed"]: r for r in at_best_rate(results, CONTROL)}
    rows = []
    for key in ROWS:
        runs = at_best_rate(results, key)
        if not runs:
            continue
        needed = []
        for r in runs:
            if r["seed"] in control:
                goal, tokens = control[r["seed"]]["curve"][-1][1], r["tokens_seen"]
                reached = tokens_to_reach(r["curve"], goal)
                needed.append(None if reached is None else reached / tokens)
        reached_all = [share for share in needed if share is not None]
        whole = bool(needed) and len(reached_all) == len(needed)
        rows.append(
            [
                f"**{key}**" if key == "all five terms" else key,
                str(len(runs)),
                *([f"{runs[0]['learning_rate']:g}"] if searched else []),
                mean([r["perplexity"]["nats_per_token"] for r in runs], 3),
                mean([r["perplexity"]["bits_per_byte"] for r in runs], 3),
                mean([r["agreement"]["agreement"] for r in runs], 3),
                mean([_density(r, edges=False) for r in runs], 3),
                mean([_density(r, edges=True) for r in runs], 3),
                mean([r["energy"]["picojoules_per_token"] / 1e3 for r in runs], 0),
                mean(reached_all, 2) if whole else "not reached",
                cpu_seconds(runs),
            ]
        )
    columns = [
        *("row", "seeds", *(["rate"] if searched else []), "nats/token", "bits/byte"),
        *("agreement with teacher", "density"),
        *("density of edges", "nJ/token", "tokens for the control's loss, share", "train CPU s"),
    ]
    text = f"{head}\n\n{markdown(columns, rows)}"
    if speed := load_speed(SWEEP, name):
        text += f"\n{speed_table(speed)}"
    if searched:
        labels = {key: key for key in ROWS}
        text += f"\n{search_table(results, labels, 'validation nats/token')}"
    return text


# --- speed ---------------------------------------------------------------------------------------


def measure_speed(args: argparse.Namespace) -> None:
    """Tokens per second of every row's first seed in the engine, in turns; kept in runs/."""
    from spikeformers.data import load_corpus, tokenize_corpus
    from spikeformers.models import load_model

    with_huge_pages()
    name = args.name or Path(args.data).name
    results = SWEEP.results(name)
    with tempfile.TemporaryDirectory() as temporary:
        rows, tokenizer = [], None
        for row in ROWS:
            for result in at_best_rate(results, row)[:1]:
                rate = result["learning_rate"] if "validation_loss" in result else None
                about = argparse.Namespace(name=name, data=args.data)
                run = SWEEP.folder(about, row, result["seed"], rate)
                if not (run / "config.json").is_file():
                    print(f"{row}: no run folder {run} on this machine")
                    continue
                tokenizer = tokenizer or load_model(run)[1]
                opened = in_engine(run, Path(temporary) / f"{len(rows)}.engine")
                rows.append({"system": row, "seed": result["seed"], "open": opened})
        if not rows:
            raise SystemExit(f"no trained row of {name} has a run folder here: run `run` first.")
        test = tokenize_corpus(load_corpus(args.data), tokenizer).split("test").tokens
        record = time_rows(rows, test, args)
    write_text(SWEEP.runs / name / "speed.json", json.dumps(record, indent=1) + "\n")


def _density(run: dict[str, Any], *, edges: bool) -> float:
    """Mean over neuron layers: those of the attention's edges, or the others."""
    layers = run["energy"]["by_neuron"]
    chosen = [d["density"] for n, d in layers.items() if n.endswith("core.neuron") == edges]
    return float(sum(chosen) / len(chosen)) if chosen else 0.0


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--teacher", required=True, help="folder of a causal model")
    parser.add_argument("--teacher-name", help="what the table calls it")
    parser.add_argument("--gguf-file", default="")
    parser.add_argument("--teacher-dtype", default="auto", help="auto, fp32, bf16 or fp16")
    parser.add_argument(
        "--cache-teacher", default="", metavar="DIR|auto", help="its outputs, shared by all rows"
    )
    parser.add_argument("--student", default="bispikclm-tiny")
    parser.add_argument("--learning-rate", type=float, default=5e-3)
    parser.add_argument("--eval-batches", type=int, default=20)
    parser.add_argument("--limit", type=int, default=0, help="validation tokens at the end; 0: all")


SEEDS = {key: row.seeds for key, row in ROWS.items()}
FIRST = dict.fromkeys(ROWS, RATES)

SWEEP = Sweep(
    __file__,
    "distill",
    SEEDS,
    train_one,
    table,
    options,
    FIRST,
    verbs={"speed": (speed_options, measure_speed)},
)

if __name__ == "__main__":
    SWEEP.main(__doc__)
