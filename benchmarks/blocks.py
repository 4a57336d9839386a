"""Feed-forward blocks that read fewer weights, each learned alone against the dense block.

    python benchmarks/blocks.py run --name smollm2-135m --model smollm2-135m --data TEXTS
        --text wikitext-2=TEXT.txt --layers 3,15,27
    python benchmarks/blocks.py table --name smollm2-135m

For each of ``--layers``: the feed-forward block of the dense model gets neurons with a threshold
per token whose dead zones follow a density at its input and one at its hidden values, with the
model's own activation or with ReLU in its place, and its three maps learn

    L = sum_t w_t |B(x_t) - D(x_t)|^2 / sum_t w_t |D(x_t)|^2,   w_t = 1 / max(|D(x_t)|^2, median)

from inputs x that the dense model has on the text, kept in memory; D is the dense block. Reported
are L on tokens that were not learned from, before and after, and what a model pays in perplexity
with this one block in place of the dense one. One thread, float32; rows that are done are kept.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from _sweep import RESULTS, commit, fill_pages
from _windows import digest_of, token_ids, windows_of
from spikeformers.reporting.tables import markdown
from spikeformers.storage import write_text
from token_threshold import changes, losses_of

if TYPE_CHECKING:
    from spikeformers.models._converted import SpikingFeedForward

STEPS_OF_NEURONS = 8
TOKENS_PER_STEP = 1024
HELD_OUT = 8  # one window in so many is not learned from


@dataclass(frozen=True)
class Row:
    """``relu`` in place of the model's activation; densities at the input and at hidden values."""

    relu: bool
    input: float
    hidden: float


ROWS = {
    "own activation, 0.6 / 0.2": Row(False, 0.6, 0.2),
    "own activation, 1 / 0.2": Row(False, 1.0, 0.2),
    "ReLU, 0.6 / 0.2": Row(True, 0.6, 0.2),
    "ReLU, 1 / 0.2": Row(True, 1.0, 0.2),
}


def run(args: argparse.Namespace) -> None:
    from spikeformers.conversion import load_source

    torch.set_num_threads(1)
    dense, tokenizer = load_source(args.model, args.gguf_file)
    dense.eval().requires_grad_(False)
    texts = {
        name: torch.tensor(windows_of(token_ids(tokenizer, path), args.windows, args.window))
        for name, path in (text.split("=", 1) for text in args.text)
    }
    learned = torch.cat(
        [
            torch.tensor(windows_of(token_ids(tokenizer, path), args.learned, args.window))
            for path in args.data
        ]
    )
    setting = {
        **{key: getattr(args, key) for key in ("steps", "rate", "learned", "windows", "window")},
        "sha256_of_windows": {name: digest_of(ids) for name, ids in texts.items()},
    }
    folder = Path(args.folder) / args.name
    keep_row(folder, "dense", {"losses": losses_with(dense, texts)}, setting)
    for layer in (int(number) for number in args.layers.split(",")):
        x, y = activations(dense, layer, learned)
        for name, row in ROWS.items():
            if not path_of(folder, f"{layer}, {name}").is_file():
                result = learn(dense, layer, row, (x, y), args)
                block = result.pop("block")
                with in_place(dense, layer, block):
                    result["losses"] = losses_with(dense, texts)
                keep_row(folder, f"{layer}, {name}", result, setting)
                print(layer, name, {k: v for k, v in result.items() if k != "losses"}, flush=True)


def path_of(folder: Path, row: str) -> Path:
    return folder / ("".join(c if c.isalnum() else "_" for c in row) + ".json")


def keep_row(folder: Path, row: str, result: dict[str, Any], setting: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    facts = {
        **{"row": row, "setting": setting, "commit": commit(), "torch": torch.__version__},
        "machine": f"{platform.machine()}, {platform.system()}, one thread",
    }
    write_text(path_of(folder, row), json.dumps(result | facts, indent=1))


def losses_with(model: Any, texts: Mapping[str, Tensor]) -> dict[str, list[float]]:
    """Text -> the mean loss of each window."""
    losses: dict[str, list[float]] = {name: [] for name in texts}
    for name, ids in texts.items():
        losses_of(model, ids, losses[name], lambda: None)
    return losses


def activations(dense: Any, layer: int, windows: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs and outputs ``[W, T, D]`` of a feed-forward block of the dense model."""
    from spikeformers.models._sources import watching

    inputs, outputs = [], []

    def keep(at: int, _: str, x: Tensor, y: Tensor, given: Mapping[str, Any]) -> None:
        if at == layer:
            inputs.append(x.float())
            outputs.append(y.float())

    with torch.no_grad(), watching(dense, ("mlp",), keep):
        for part in windows.split(2):
            dense(input_ids=part, use_cache=False, logits_to_keep=1)
    return torch.cat(inputs), torch.cat(outputs)


def learn(
    dense: Any, layer: int, row: Row, pairs: tuple[Tensor, Tensor], args: argparse.Namespace
) -> dict[str, Any]:
    """The block of a row, its errors before and after, and its densities on held-out windows."""
    from spikeformers.training import TrainConfig
    from spikeformers.training.density_schedule import Course, DensitySchedule
    from spikeformers.training.distributed import World
    from spikeformers.training.optim import learning_rate

    block = block_of(dense, layer, row)
    held, rest = ([t[::HELD_OUT] for t in pairs], [t[without_held(t)] for t in pairs])
    x, y = (tensor.flatten(0, 1) for tensor in rest)
    courses = {
        name: Course(density, density)
        for name, density in (("fire_in", row.input), ("fire_hidden", row.hidden))
        if density < 1
    }
    schedule, world = DensitySchedule(block, courses), World(0, 1, x.device, "single")
    config = TrainConfig(steps=args.steps, learning_rate=args.rate)
    schedule.start(config, world)
    block.train()
    draw = torch.Generator().manual_seed(args.seed)

    def batch() -> Tensor:
        return torch.randint(len(x), (TOKENS_PER_STEP,), generator=draw)

    for step in range(20):  # the dead zones of the dense weights
        with torch.no_grad():
            block(x[batch()].unsqueeze(0))
        schedule.stepped(step + 1, world)
    before = error_of(block, held)
    weights = [p for n, p in block.named_parameters() if not n.endswith("dead_zone")]
    optimizer = torch.optim.AdamW(weights, lr=args.rate, betas=(0.9, 0.95), weight_decay=0.0)
    for step in range(args.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config)
        at = batch()
        relative_error(block(x[at].unsqueeze(0))[0], y[at]).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.stepped(step + 1, world)
    schedule.close()
    block.eval()
    return {
        **{"block": block, "error_before": before, "error": error_of(block, held)},
        "densities": densities_of(block, held[0]),
    }


def without_held(tensor: Tensor) -> Tensor:
    return torch.arange(len(tensor)) % HELD_OUT != 0


def block_of(dense: Any, layer: int, row: Row) -> SpikingFeedForward:
    """The dense block with neurons in front of its maps, and with the activation of ``row``."""
    from transformers.activations import ACT2FN

    from spikeformers.conversion import make_plan
    from spikeformers.conversion.stages import convert_module
    from spikeformers.conversion.thresholds import Rule

    plan = make_plan(dense, threshold="token", attention="kept", steps=STEPS_OF_NEURONS)
    block: Any = convert_module(dense, plan.config, layer, "mlp", None, Rule())
    if row.relu:
        block.act = ACT2FN["relu"]
    return block  # type: ignore[no-any-return]


def relative_error(output: Tensor, target: Tensor) -> Tensor:
    """L of ``[N, D]``: each token beside its own size, of which none is below the median."""
    size = target.square().sum(1)
    weight = 1 / size.clamp_min(size.median())
    return ((output - target).square().sum(1) * weight).sum() / (size * weight).sum()


@torch.no_grad()
def error_of(block: nn.Module, pairs: list[Tensor]) -> float:
    x, y = pairs
    outputs = torch.cat([block(part) for part in x.split(1)])
    return float(relative_error(outputs.flatten(0, 1), y.flatten(0, 1)))


@torch.no_grad()
def densities_of(block: nn.Module, x: Tensor) -> dict[str, float]:
    """The share of values that fire, by layer of neurons."""
    from spikeformers.neurons import observe

    shares: dict[str, float] = {}

    def count(name: str, _: nn.Module, spikes: Tensor) -> None:
        shares[name] = float((spikes != 0).float().mean())

    with observe(block, count):
        block(x)
    return shares


@contextmanager
def in_place(dense: Any, layer: int, block: nn.Module) -> Iterator[None]:
    """The dense model with ``block`` for its own feed-forward block of a layer."""
    from spikeformers.models._sources import source_of

    source = source_of(dense.config.model_type)
    owner = source.blocks(dense)[layer]
    before = getattr(owner, source.mlp)
    setattr(owner, source.mlp, block)
    try:
        yield
    finally:
        setattr(owner, source.mlp, before)


def table(args: argparse.Namespace) -> None:
    folder = Path(args.folder) / args.name
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    (dense,) = (record for record in records if record["row"] == "dense")
    others = sorted(
        (record for record in records if record is not dense),
        key=lambda record: (int(record["row"].split(",")[0]), record["row"]),
    )
    if any(record["setting"] != dense["setting"] for record in others):
        raise SystemExit("these records have several settings; measure anew.")
    setting, texts = dense["setting"], list(dense["losses"])
    commits = ", ".join(sorted({record["commit"] for record in records}))
    head = (
        f"{args.name}, T = {STEPS_OF_NEURONS}; {setting['steps']:,} steps of {TOKENS_PER_STEP:,} "
        f"tokens at a rate of {setting['rate']:g}; perplexity on {setting['windows']} windows of "
        f"{setting['window']} tokens of each text, with this one block in place of the dense one; "
        f"commits {commits}; torch {dense['torch']}, {dense['machine']}. Measured."
    )
    lines = []
    for record in others:
        layer, _, name = record["row"].partition(", ")
        density = record["densities"]
        cells = [layer, name, f"{density['fire_in']:.2f} / {density['fire_hidden']:.2f}"]
        cells += [f"{record['error_before']:.3f}", f"{record['error']:.3f}"]
        for text in texts:
            result = changes(record, dense, text)
            cells.append(f"{result['change']:+.2%} ± {result['standard_error']:.2%}")
        lines.append(cells)
    columns = ["layer", "activation, density of input / hidden", "reached", "error before", "after"]
    page = f"{head}\n\n{markdown([*columns, *texts], lines)}"
    target = RESULTS / f"blocks-{args.name}"
    write_text(target.with_suffix(".json"), json.dumps(records, indent=1) + "\n")
    write_text(target.with_suffix(".md"), page)
    fill_pages(target.name, page)
    print(page)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    commands = parser.add_subparsers(dest="command", required=True)
    verbs: dict[str, Callable[[argparse.Namespace], None]] = {"run": run, "table": table}
    for name, action in verbs.items():
        command = commands.add_parser(name)
        command.set_defaults(action=action)
        command.add_argument("--name", required=True)
        command.add_argument("--folder", default="runs/blocks")
        if name == "table":
            continue
        command.add_argument("--model", required=True)
        command.add_argument("--gguf-file", default="")
        command.add_argument("--text", action="append", required=True, help="NAME=FILE; repeatable")
        command.add_argument("--data", action="append", required=True, help="FILE to learn from")
        command.add_argument("--layers", default="3,15,27")
        command.add_argument("--learned", type=int, default=48, help="windows of each --data")
        command.add_argument("--steps", type=int, default=200)
        command.add_argument("--rate", type=float, default=1e-3)
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--windows", type=int, default=8)
        command.add_argument("--window", type=int, default=512)
    args = parser.parse_args()
    args.action(args)


if __name__ == "__main__":
    main()
