"""What in the block costs quality against the dense twin: short runs of a long schedule.

    python benchmarks/gap.py run --data WIKITEXT --name long --steps 1600 --schedule-steps 4000
    python benchmarks/gap.py run --data WIKITEXT --name ideas --steps 600 --schedule-steps 1000
    python benchmarks/gap.py run --data WIKITEXT --name masked --steps 1500 --schedule-steps 1500
    python benchmarks/gap.py run --data WIKITEXT --name wide --steps 1600 --schedule-steps 4000
        --width 128 --batch 16 --learning-rate 2.5e-3 --compile --eval-batches 20
    python benchmarks/gap.py table

Every row is a model of half the tiny preset's width (64, or ``--width``; four layers, heads of 16,
BPE of 2,048 tokens) that trains on the same windows for ``--steps`` of a schedule of
``--schedule-steps``: a schedule of its own length would rank the rows by how they end instead of
how they learn. Rows with real values replace every neuron by the identity (by max(0, x) inside the
MLP), so that what is left of the gap is due to the block and not to spikes. The others change one
thing of dead zones; those that need a part which the library does not have bring it here
(`_ideas.py`). All rows have one learning rate, so they rank ideas, and say nothing about the twin.
Losses are measured: of causal models over the whole validation split, of masked ones over
``--eval-batches`` of its batches.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from _gap_rows import HEAD, ROWS
from _sweep import Sweep, mean
from _training import validation_by_step
from spikeformers.reporting.tables import markdown

SETTING = ("steps", "schedule_steps", "batch", "context", "width", "learning_rate", "eval_batches")
SEEDS = dict.fromkeys(ROWS, (0, 1))


def train_one(args: argparse.Namespace, out: Path) -> dict[str, Any] | None:
    """Train (or resume) one row with one seed."""
    from transformers import set_seed

    from spikeformers.data import load_corpus, make_tokenizer, tokenize_corpus
    from spikeformers.evaluation import perplexity
    from spikeformers.models import build_config, build_model, control_of
    from spikeformers.training import TrainConfig, train

    row = ROWS[args.row]
    corpus = load_corpus(args.data)
    tokenizer = make_tokenizer("bpe:2048", corpus, masked=row.masked)
    store = tokenize_corpus(corpus, tokenizer)
    set_seed(args.seed)
    shape = {"hidden_size": args.width, "num_attention_heads": args.width // HEAD}
    preset = "we-spikingformer-tiny" if row.masked else "wd-spikingformer-tiny"
    spiking = build_config(preset, len(tokenizer), {**shape, **row.model})
    model = build_model(control_of(spiking, "rotary") if row.twin else spiking)
    row.change(model)
    config = TrainConfig(
        steps=args.steps,
        schedule_steps=max(args.steps, args.schedule_steps),
        batch_size=args.batch,
        context=args.context,
        learning_rate=args.learning_rate,
        seed=args.seed,
        threads=1,
        eval_every=max(1, args.steps // 4),
        eval_batches=args.eval_batches,
        save_every=max(1, args.steps // 4),
        keep_checkpoints=1,
        compile=args.compile,
    )
    resumed = (out / "run.json").is_file()
    on_step = row.on_step and row.on_step(model, args.steps)
    result = train(
        model, store, tokenizer, out, config, resume=resumed, progress=False, on_step=on_step
    )
    if result.interrupted:
        return None
    loss, by_place = result.final_validation["loss"], None
    if not row.masked:
        report = perplexity(model, tokenizer, store.split("validation"), context=args.context)
        loss, by_place = report.nats_per_token, nats_by_place(model, store, args.context)
    return {
        "setting": {k: getattr(args, k) for k in SETTING},
        "nats_per_token": loss,
        "nats_by_place": by_place,
        "validation_by_step": validation_by_step(out),
        "weights_read": None if row.twin else weights_read(model, store, args.context),
        "parameters": model.num_parameters(),
        "corpus": corpus.digest,
    }


@torch.no_grad()
def weights_read(model: Any, store: Any, context: int) -> float:
    """The share of the weights that a token of the first validation windows reads."""
    from spikeformers.models import share_read
    from spikeformers.training.density import DensityMeter

    tokens = torch.tensor(store.split("validation").tokens[: 16 * context].astype("int64"))
    meter = DensityMeter()
    with meter.measuring(model.eval()):
        model(tokens.view(16, context))
    return share_read(model, meter.by_layer())


@torch.no_grad()
def nats_by_place(model: Any, store: Any, context: int, windows: int = 320) -> dict[str, float]:
    """Nats per token of the first validation windows, by the tokens' places in them.

    The first tokens show what a model knows without a context, the last ones what it reads from it.
    """
    tokens = store.split("validation").tokens
    windows = min(windows, len(tokens) // context)
    ids = torch.tensor(tokens[: windows * context].astype("int64")).view(windows, context)
    losses = torch.cat(
        [
            functional.cross_entropy(
                model(input_ids=batch).logits.mT[..., :-1], batch[:, 1:], reduction="none"
            )
            for batch in ids.split(16)
        ]
    )
    bounds = [0, *(bound for bound in (4, 16, 64) if bound < context - 1), context - 1]
    return {
        f"{first + 1}-{last}": losses[:, first:last].mean().item()
        for first, last in pairwise(bounds)
    }


def table(name: str, results: list[dict[str, Any]]) -> str:
    """One line per row, mean and sample deviation over its seeds."""
    setting = results[0]["setting"]
    head = (
        f"{name}: {setting['steps']:,} of {setting['schedule_steps']:,} steps of "
        f"{setting['batch']} x {setting['context']} tokens, width {setting['width']}, all at a "
        f"rate of {setting['learning_rate']:g}; commits "
        f"{', '.join(sorted({run['commit'] for run in results}))}; torch "
        f"{results[0]['torch']}, {results[0]['machine']}. Losses measured."
    )
    rows = []
    places = next((list(run["nats_by_place"]) for run in results if run.get("nats_by_place")), [])
    for key in ROWS:
        runs = [run for run in results if run["row"] == key]
        if runs:
            read = [run["weights_read"] for run in runs if run["weights_read"] is not None]
            losses = [run["nats_per_token"] for run in runs]
            parameters = f"{runs[0]['parameters']:,}"
            share = mean(read, 2) if read else "1"
            by_place = [run["nats_by_place"] for run in runs if run.get("nats_by_place")]
            cells = [
                mean([one[place] for one in by_place], 3) if by_place else "" for place in places
            ]
            rows.append([key, str(len(runs)), mean(losses, 3), *cells, share, parameters])
    nats = ["validation nats/token", *(f"tokens {place}" for place in places)]
    columns = ["row", "seeds", *nats, "weights read", "parameters"]
    return f"{head}\n\n{markdown(columns, rows)}"


def options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(batch=8)
    parser.add_argument("--schedule-steps", type=int, default=4000)
    parser.add_argument("--learning-rate", type=float, default=5e-3)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--eval-batches", type=int, default=60, help="of validations on the way")


if __name__ == "__main__":
    Sweep(__file__, "gap", SEEDS, train_one, table, options).main(__doc__)
