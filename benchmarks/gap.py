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
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from _ideas import (
    OnStep,
    budget_by_margin,
    falling_budget,
    gate_hidden,
    handed_on,
    mixed,
    more_winners,
    neighbours_first,
    one_winner,
    rests,
    thresholds_by_channel,
    traces,
    turned_by_position,
)
from _sweep import Sweep, mean
from _training import validation_by_step
from spikeformers.models import DEAD_ZONES
from spikeformers.neurons import Neuron, register_neuron
from spikeformers.reporting.tables import markdown

HEAD = 16
"""Width of a head."""
SETTING = ("steps", "schedule_steps", "batch", "context", "width", "learning_rate", "eval_batches")
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


class Smooth(Real):
    """GELU, real, as in the twin."""

    def fire(self, u: Tensor) -> Tensor:
        return functional.gelu(u)


register_neuron("real", Real)
register_neuron("positive", Positive)
register_neuron("smooth", Smooth)


@dataclass(frozen=True)
class Row:
    """The tiny preset's overrides, and what is done to the model that they give."""

    model: dict[str, Any] = field(default_factory=dict)
    twin: bool = False
    masked: bool = False
    change: Callable[[Any], None] = lambda model: None
    on_step: Callable[[Any, int], OnStep] | None = None
    """Of the model and the number of steps: what happens after each."""


def places(**changes: Any) -> dict[str, Any]:
    """Dead zones with these fields at every place."""
    neurons = DEAD_ZONES["neurons"]
    return {**DEAD_ZONES, "neurons": {place: {**own, **changes} for place, own in neurons.items()}}


def with_neurons(neuron: str, *here: str) -> dict[str, Any]:
    """Dead zones but for these places, which have ``neuron``."""
    return {"neurons": DEAD_ZONES["neurons"] | {place: {"neuron": neuron} for place in here}}


def winners(number: int) -> dict[str, Any]:
    """The mean of ``number`` winners' rows."""
    return {"attention": "cwssa", "wta": "top_k", "winners": number, "winner_weight": "mean"}


def averaging(attention: str, budget: float = DEAD_ZONES["budget"]) -> dict[str, Any]:
    """Attention that averages, as presets have it: fine steps and no norm before W_o."""
    return {"attention": attention, "budget": budget}


NO_BUDGET: dict[str, Any] = {**DEAD_ZONES, "budget": 0.999}
REAL: dict[str, Any] = {
    "neurons": {
        **{place: {"neuron": "real"} for place in PLACES},
        "hidden": {"neuron": "positive"},
    },
    "firing_rate_weight": 0.0,
}
PLAIN: dict[str, Any] = {**REAL, "projection_norm": False}
"""Real values without norms behind the maps."""
SUMMED: dict[str, Any] = {
    **DEAD_ZONES,
    "attention": "softmax",
    "neurons": {**DEAD_ZONES["neurons"], "out": DEAD_ZONES["neurons"]["value"]},
}
SOFTMAX: dict[str, Any] = {"attention": "softmax", "attention_scale": HEAD**-0.5}
"""Softmax whose scores begin as the twin's."""
NO_SLOPES = {"relative_slope": 0.0}
BLOCK: dict[str, Any] = {
    **PLAIN,
    **SOFTMAX,
    "neurons": REAL["neurons"] | {"out": {"neuron": "real"}},
}
"""The spiking block with real values and softmax."""
SIGNED_HIDDEN: dict[str, Any] = {
    **DEAD_ZONES,
    "neurons": {**DEAD_ZONES["neurons"], "hidden": DEAD_ZONES["neurons"]["value"]},
}
A2OS2A: dict[str, Any] = {"attention": "a2os2a", "neuron": "ni-lif"}
OPEN: dict[str, Any] = {
    **A2OS2A,
    "budget": DEAD_ZONES["budget"],
    "neurons": {place: DEAD_ZONES["neurons"][place] for place in ("in", "hidden", "head")}
    | {"out": DEAD_ZONES["neurons"]["value"]},
}
"""A2OS2A with dead zones at the places that its paper leaves open."""
ROWS: dict[str, Row] = {
    "dense twin, rotary positions": Row(twin=True),
    "dense twin, rotary positions, one winner": Row(twin=True, change=one_winner),
    "real values": Row(REAL),
    "real values, no norms behind the maps": Row(PLAIN),
    "real values, no norms behind the maps, softmax": Row(
        {**PLAIN, "attention": "softmax", "neurons": REAL["neurons"] | {"out": {"neuron": "real"}}}
    ),
    "real values, no norms behind the maps, GELU": Row(
        {**PLAIN, "neurons": REAL["neurons"] | {"hidden": {"neuron": "smooth"}}}
    ),
    "block: real, softmax": Row(BLOCK),
    "block: real, softmax, no norm before W_o, rotary": Row(
        {**BLOCK, **NO_SLOPES, "sum_norm": False}, change=turned_by_position
    ),
    "real values, softmax": Row({**REAL, "attention": "softmax"}),
    "NI-LIF": Row({"neuron": "ni-lif"}),
    "dead zones": Row(DEAD_ZONES),
    "dead zones, softmax": Row(SUMMED),
    "dead zones, softmax, scores begin as the twin's": Row({**SUMMED, **SOFTMAX}),
    "dead zones, norms behind the maps": Row({**DEAD_ZONES, "projection_norm": True}),
    "dead zones, budget 0.15": Row({**DEAD_ZONES, "budget": 0.15}),
    "dead zones, no budget": Row(NO_BUDGET),
    "dead zones, no budget, hidden GELU": Row(NO_BUDGET | with_neurons("smooth", "hidden")),
    "dead zones, no budget, real before the maps and the head": Row(
        NO_BUDGET | with_neurons("real", "in", "head")
    ),
    "dead zones, steps of 1/2": Row(places(step_size=0.5, levels=32)),
    "dead zones, steps of 1/8": Row(places(step_size=0.125, levels=128)),
    "dead zones, thresholds from 0": Row(places(dead_zone=0.0)),
    "dead zones, a threshold per channel": Row(DEAD_ZONES, change=thresholds_by_channel),
    "dead zones, the budget falls from 1": Row(DEAD_ZONES, on_step=falling_budget),
    "dead zones, the budget falls late": Row(
        DEAD_ZONES, on_step=partial(falling_budget, begin=0.5, until=0.75)
    ),
    "dead zones, held by what a threshold silences": Row(DEAD_ZONES, change=budget_by_margin),
    "dead zones, a tenth of the gradient outside": Row({**DEAD_ZONES, "surrogate_leak": 0.1}),
    "dead zones, signed hidden counts": Row(SIGNED_HIDDEN),
    "dead zones, a gate of spikes in the MLP": Row(
        {**DEAD_ZONES, "intermediate_size": 171}, change=gate_hidden
    ),
    "dead zones, eight heads": Row({**DEAD_ZONES, "num_attention_heads": 8}),
    "dense twin, rotary positions, eight heads": Row({"num_attention_heads": 8}, twin=True),
    "dead zones, two heads": Row({**DEAD_ZONES, "num_attention_heads": 2}),
    "dense twin, rotary positions, two heads": Row({"num_attention_heads": 2}, twin=True),
    "dead zones, two winners, their mean": Row({**SUMMED, **winners(2)}),
    "dead zones, four winners, their mean": Row({**SUMMED, **winners(4)}),
    "dead zones, sparsemax": Row({**SUMMED, "attention": "cwssa", "wta": "sparsemax"}),
    "dead zones, rotary positions beside the bias": Row(DEAD_ZONES, change=turned_by_position),
    "dead zones, no budget, half of the heads leaky traces": Row(NO_BUDGET, change=traces),
    "dead zones, no budget, rotary": Row({**NO_BUDGET, **NO_SLOPES}, change=turned_by_position),
    "dead zones, no budget, softmax, rotary, real sums": Row(
        {**NO_BUDGET, **SOFTMAX, **NO_SLOPES, **with_neurons("real", "out"), "sum_norm": False},
        change=turned_by_position,
    ),
    "dead zones, no budget, softmax, rotary, no norm before W_o": Row(
        {**NO_BUDGET, **SOFTMAX, **NO_SLOPES, "neurons": SUMMED["neurons"], "sum_norm": False},
        change=turned_by_position,
    ),
    "dead zones, no budget, softmax, norm before W_o": Row(
        {**NO_BUDGET, **SOFTMAX, "neurons": SUMMED["neurons"]}
    ),
    "dead zones, no budget, softmax, fine counts before W_o": Row(averaging("softmax", 0.999)),
    "dead zones, softmax, fine counts before W_o": Row(averaging("softmax")),
    "dead zones, no budget, powers of two, fine counts before W_o": Row(
        averaging("power-of-two", 0.999)
    ),
    "dead zones, powers of two, fine counts before W_o": Row(averaging("power-of-two")),
    "dead zones, no budget, softmax and one winner, fine counts before W_o": Row(
        averaging("softmax", 0.999), change=mixed
    ),
    "dead zones, no budget, four winners, their mean handed on": Row(
        {**winners(4), **NO_BUDGET}, change=handed_on
    ),
    "dead zones, no budget, one winner, from the middle four": Row(
        {**winners(4), **NO_BUDGET}, change=handed_on, on_step=more_winners
    ),
    "dead zones, no budget, token shift": Row({**NO_BUDGET, "token_shift": True}),
    "dead zones, heads may rest": Row(DEAD_ZONES, change=rests),
    "dead zones, sixteen heads": Row({**DEAD_ZONES, "num_attention_heads": 16}),
    "A2OS2A, NI-LIF": Row(A2OS2A),
    "A2OS2A, dead zones": Row(OPEN),
    "A2OS2A, dead zones, no norms behind the maps": Row({**OPEN, "projection_norm": False}),
    "masked: dense twin, rotary positions": Row(twin=True, masked=True),
    "masked: NI-LIF": Row(masked=True),
    "masked: NI-LIF, heads begin beside the query": Row(masked=True, change=neighbours_first),
    "masked: dead zones": Row(DEAD_ZONES, masked=True),
    "masked: dead zones, heads begin beside the query": Row(
        DEAD_ZONES, masked=True, change=neighbours_first
    ),
    "masked: dead zones, softmax": Row(SUMMED, masked=True),
    "masked: real values, no norms behind the maps": Row(PLAIN, masked=True),
}
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
