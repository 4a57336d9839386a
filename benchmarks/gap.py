"""What in the block costs quality against the dense twin: short runs of a long schedule.

    python benchmarks/gap.py run --data WIKITEXT --jobs 1
    python benchmarks/gap.py table

Every row is a model of half the tiny preset's width (64, four layers, four heads, BPE of 2,048
tokens) that trains on the same windows for ``--steps`` of a schedule of ``--schedule-steps``: a
schedule of its own length would rank the rows by how they end instead of how they learn. Rows with
real values replace every neuron by the identity (by max(0, x) inside the MLP), so that what is left
of the gap is the block's and not the spikes'. Losses are measured, over the whole validation split.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from _sweep import Sweep
from spikeformers.models import DEAD_ZONES
from spikeformers.neurons import Neuron, register_neuron
from spikeformers.reporting.tables import markdown

SHAPE = {"hidden_size": 64, "num_attention_heads": 4}
PLACES = ("in", "query", "key", "value", "head")


class Real(Neuron):
    """No neuron: the current itself."""

    spike_type = "integer"

    def fire(self, u: Tensor) -> Tensor:
        return u.clone()


class Positive(Real):
    """max(0, x), real."""

    def fire(self, u: Tensor) -> Tensor:
        return torch.relu(u)


register_neuron("real", Real)
register_neuron("positive", Positive)

REAL: dict[str, Any] = {
    "neurons": {
        **{place: {"neuron": "real"} for place in PLACES},
        "hidden": {"neuron": "positive"},
    },
    "firing_rate_weight": 0.0,
}
ROWS: dict[str, dict[str, Any]] = {
    "dense twin, rotary positions": {},
    "real values": REAL,
    "real values, no norms behind the maps": {**REAL, "projection_norm": False},
    "real values, softmax": {**REAL, "attention": "softmax"},
    "NI-LIF": {"neuron": "ni-lif"},
    "dead zones": DEAD_ZONES,
    "dead zones, norms behind the maps": {**DEAD_ZONES, "projection_norm": True},
}
TWIN = next(iter(ROWS))


def train_one(args: argparse.Namespace, out: Path) -> dict[str, Any] | None:
    """Train (or resume) one row with one seed."""
    from transformers import set_seed

    from spikeformers.data import load_corpus, make_tokenizer, tokenize_corpus
    from spikeformers.evaluation import perplexity
    from spikeformers.models import build_config, build_model, control_of
    from spikeformers.training import TrainConfig, train

    corpus = load_corpus(args.data)
    tokenizer = make_tokenizer("bpe:2048", corpus)
    store = tokenize_corpus(corpus, tokenizer)
    set_seed(args.seed)
    spiking = build_config("wd-spikingformer-tiny", len(tokenizer), {**ROWS[args.row], **SHAPE})
    model = build_model(control_of(spiking, "rotary") if args.row == TWIN else spiking)
    config = TrainConfig(
        steps=args.steps,
        schedule_steps=max(args.steps, args.schedule_steps),
        batch_size=args.batch,
        context=args.context,
        learning_rate=5e-3,
        seed=args.seed,
        threads=1,
        eval_every=max(1, args.steps // 4),
        save_every=max(1, args.steps // 4),
        keep_checkpoints=1,
    )
    resumed = (out / "run.json").is_file()
    result = train(model, store, tokenizer, out, config, resume=resumed, progress=False)
    if result.interrupted:
        return None
    report = perplexity(model, tokenizer, store.split("validation"), context=args.context)
    return {
        "setting": {k: getattr(args, k) for k in ("steps", "schedule_steps", "batch", "context")},
        "perplexity": report.as_dict(),
        "corpus": corpus.digest,
    }


def table(name: str, results: list[dict[str, Any]]) -> str:
    """One line per row and seed."""
    setting = results[0]["setting"]
    head = (
        f"{name}: {setting['steps']:,} of {setting['schedule_steps']:,} steps of "
        f"{setting['batch']} x {setting['context']} tokens, width 64; measured."
    )
    rows = [
        [run["row"], str(run["seed"]), f"{run['perplexity']['nats_per_token']:.3f}"]
        for key in ROWS
        for run in results
        if run["row"] == key
    ]
    return f"{head}\n\n{markdown(['row', 'seed', 'validation nats/token'], rows)}"


def options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(batch=8)
    parser.add_argument("--schedule-steps", type=int, default=4000)


if __name__ == "__main__":
    Sweep(__file__, "gap", dict.fromkeys(ROWS, (0,)), train_one, table, options).main(__doc__)
