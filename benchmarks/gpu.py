"""All that wants a GPU, in under eight minutes on one H100, without network.

    python benchmarks/gpu.py [--out benchmarks/results/gpu] [--minutes 8]
    python benchmarks/gpu.py --dry-run        every part at toy size through Triton's interpreter

1. correctness   every kernel against PyTorch's: output and every gradient, float32 and bfloat16
2. neurons       time and memory of norm with neuron, LIF, T-LIF
3. attention     the same of each attention, T from 512 to 32,768, beside its naive form and SDPA
4. steps         a training step of small, base and 0.4b beside their dense twins (SDPA), blocks of
                 both compiled: milliseconds, tokens per second, MFU, memory
5. training      small and its twin on the interpreter's own documentation, with the time left

The folder gets ``gpu.json`` and ``gpu.md`` after each part, so that an end at any moment leaves
what there is. Exit code 1 if a part fails or a kernel is wrong; bars are reported, not enforced.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

if "--dry-run" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

import _gpu_kernels as kernel_part
from spikeformers.data.builtin import builtin_documents
from spikeformers.kernels import choose
from spikeformers.models import build_config, build_model, control_of
from spikeformers.storage import write_text

PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40": 181e12, "4090": 165e12}
"""Dense bfloat16 operations per second, by a part of the device's name (makers' data sheets)."""
PRESETS = {"small": (64, 512), "base": (16, 1024), "0.4b": (8, 1024)}
"""Texts per step, and their length."""
BARS = (
    "a step of 0.4b at most 1.15 times its compiled twin's",
    "attention at T = 8,192 at least 10 times as fast as the naive form",
    "attention at T = 8,192 at most 1.5 times SDPA's time",
    "memory linear in T: from 16,384 to 32,768 at most 2.2 times",
)
VOCABULARY = 256
Part = Callable[[], Any]


class Budget:
    """Seconds until the end of the run."""

    def __init__(self, minutes: float) -> None:
        self.start, self.total = time.perf_counter(), 60 * minutes

    @property
    def left(self) -> float:
        return self.total - (time.perf_counter() - self.start)


# --- parts ----------------------------------------------------------------------------------------


def correctness_in_processes(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Shards of the cases in processes of their own: compiling kernels takes CPU time, not GPU."""
    number = 1 if args.dry_run else min(8, os.cpu_count() or 1)
    command = [sys.executable, __file__, *(["--dry-run"] if args.dry_run else [])]
    running = [
        subprocess.Popen([*command, "--shard", f"{i}/{number}"], stdout=subprocess.PIPE, text=True)
        for i in range(number)
    ]
    rows: list[dict[str, Any]] = []
    for process in running:
        out, _ = process.communicate(timeout=None if args.dry_run else 180)
        if process.returncode:
            raise RuntimeError(f"a process of the correctness part ended with {process.returncode}")
        rows += json.loads(out.splitlines()[-1])
    return sorted(rows, key=lambda row: row["kernel"])


def blocks_of(model: nn.Module) -> nn.ModuleList:
    """The model's repeated blocks: its longest list of modules."""
    lists = [part for part in model.modules() if isinstance(part, nn.ModuleList)]
    return max(lists, key=len)


def step_of(model: PreTrainedModel, ids: Tensor, device: str) -> Callable[[], Tensor]:
    """One training step in bfloat16: forward, backward, clipping, AdamW; returns the loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=device == "cuda")

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16):
            out = model(input_ids=ids, labels=ids)
        out.loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return out.loss.detach()

    return step


def build(config: Any, device: str, dry: bool) -> PreTrainedModel:
    """A model in training with its blocks compiled, one after another by the same code."""
    torch.manual_seed(0)
    model = build_model(config).to(device).train()
    if not hasattr(config, "attention"):
        model.set_attn_implementation("sdpa")
    for block in blocks_of(model):
        block.compile(backend="aot_eager" if dry else "inductor")
    return model


def configs(name: str, context: int, dry: bool) -> dict[str, Any]:
    toy = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    options: dict[str, Any] = {"intermediate_size": 16, **toy} if dry else {}
    spiking = build_config(
        f"wd-spikingformer-{name}", VOCABULARY, {"max_position_embeddings": context, **options}
    )
    return {"spiking": spiking, "twin": control_of(spiking)}


def flops_per_token(model: PreTrainedModel, context: int) -> float:
    """6 per parameter, and 6 per layer, width and key for causal attention, as PaLM counts them."""
    config: Any = model.config
    return 6 * (model.num_parameters() + config.num_hidden_layers * config.hidden_size * context)


def peak_of(device: str) -> float | None:
    name = torch.cuda.get_device_name() if device == "cuda" else ""
    return next((peak for part, peak in PEAK.items() if part in name), None)


def training_step(name: str, device: str, dry: bool) -> dict[str, Any]:
    """A step of a preset and of its dense twin."""
    batch, context = (1, 4) if dry else PRESETS[name]
    row: dict[str, Any] = {"preset": name, "batch": batch, "context": context}
    for kind, config in configs(name, context, dry).items():
        torch._dynamo.reset()
        model = build(config, device, dry)
        ids = torch.randint(0, VOCABULARY, (batch, context), device=device)
        step = step_of(model, ids, device)
        for _ in range(1 if dry else 3):
            step()
        measured = kernel_part.measure(step, device, 0.0 if dry else 4.0)
        if measured is None:
            row[kind] = None
            continue
        rate = batch * context / (measured["ms"] / 1e3)
        peak = peak_of(device)
        row[kind] = {
            **measured,
            "tokens_per_second": rate,
            "mfu": None if peak is None else rate * flops_per_token(model, context) / peak,
            "parameters": model.num_parameters(),
        }
        del model, step
    if row["spiking"] and row["twin"]:
        row["ratio"] = row["spiking"]["ms"] / row["twin"]["ms"]
    return row


def packaged_text(device: str) -> Tensor:
    text = "\n".join(text for _, text in builtin_documents())
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8).long().to(device)


def train(budget: Budget, device: str, dry: bool) -> dict[str, Any]:
    """Losses of small and its twin over equal numbers of steps, each for half of the time left."""
    if budget.left < 60 and not dry:
        return {"skipped": f"{budget.left:.0f} s were left"}
    data = packaged_text(device)
    held_out, data = data[: len(data) // 20], data[len(data) // 20 :]
    batch, context = (1, 4) if dry else PRESETS["small"]
    seconds, steps, curves = (budget.left - 25) / 2, 0, {}
    generator = torch.Generator().manual_seed(0)
    for kind, config in configs("small", context, dry).items():
        torch._dynamo.reset()
        model = build(config, device, dry)
        ids = torch.empty(batch, context, dtype=torch.long, device=device)
        step = step_of(model, ids, device)
        generator.manual_seed(0)
        losses: list[float] = []
        start = time.perf_counter()
        while True:
            first = torch.randint(len(data) - context, (batch, 1), generator=generator)
            ids.copy_(data[(first + torch.arange(context)).to(device)])
            losses.append(float(step()))
            done = len(losses)
            if done == steps or (not steps and time.perf_counter() - start > seconds):
                break
            if dry and done == 2:
                break
        steps = len(losses)  # the second model takes as many
        curves[kind] = {
            "steps": steps,
            "tokens": steps * batch * context,
            "seconds": time.perf_counter() - start,
            "loss": losses[:: max(1, steps // 50)],
            "held_out_bits_per_byte": bits_per_byte(model, held_out, batch, context, device),
        }
    return curves


@torch.no_grad()
def bits_per_byte(
    model: PreTrainedModel, data: Tensor, batch: int, context: int, device: str
) -> float:
    model.eval()
    windows = data[: min(len(data) // context, 8 * batch) * context].view(-1, context)[: 8 * batch]
    losses = []
    for ids in windows.split(batch):
        with torch.autocast(device, torch.bfloat16):
            losses.append(model(input_ids=ids, labels=ids).loss.float())
        if device != "cuda" and losses:
            break
    return float(torch.stack(losses).mean()) / math.log(2)


# --- results --------------------------------------------------------------------------------------


def bars(record: dict[str, Any]) -> dict[str, Any]:
    """The value of each bar, and whether it is met; missing measurements are None."""
    if record["dry"]:
        return {bar: {"value": None, "met": None} for bar in BARS}
    by_length = {row["tokens"]: row for row in record.get("attention") or []}
    steps = {row["preset"]: row for row in record.get("steps") or []}

    def ratio(a: Any, b: Any, key: str = "ms") -> float | None:
        return a[key] / b[key] if a and b and b[key] else None

    at = by_length.get(8192, {})
    values = (
        (steps.get("0.4b", {}).get("ratio"), lambda x: x <= 1.15),
        (ratio(at.get("wta, naive"), at.get("wta")), lambda x: x >= 10),
        (ratio(at.get("wta"), at.get("sdpa")), lambda x: x <= 1.5),
        (
            ratio(by_length.get(32768, {}).get("wta"), by_length.get(16384, {}).get("wta"), "mb"),
            lambda x: x <= 2.2,
        ),
    )
    return {
        bar: {"value": value, "met": None if value is None else met(value)}
        for bar, (value, met) in zip(BARS, values, strict=True)
    }


def cell(value: Any) -> str:
    if isinstance(value, dict) and "ms" in value:
        return f"{value['ms']:.3g} ms, {value['mb']:.0f} MB"
    if isinstance(value, float):
        return f"{value:.3g}"
    return "-" if value is None else str(value)


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as Markdown; values of a nested dictionary in one cell."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(cell(row.get(name)) for name in names) + " |" for row in rows]
    return "\n".join(lines)


def flat_step(row: dict[str, Any]) -> dict[str, Any]:
    flat = {key: row[key] for key in ("preset", "batch", "context")}
    for kind in ("spiking", "twin"):
        measured = row[kind] or {}
        flat[kind] = row[kind]
        for key in ("tokens_per_second", "mfu"):
            flat[f"{kind} {key}"] = measured.get(key)
    return {**flat, "ratio": row.get("ratio")}


def page(record: dict[str, Any]) -> str:
    parts = [f"# {record['title']}", f"Kernels: {record['kernels']}. torch {record['torch']}."]
    for name, rows in record.items():
        if name == "steps" and rows:
            parts += ["## steps", table([flat_step(row) for row in rows])]
        elif isinstance(rows, list) and rows:
            parts += [f"## {name}", table(rows)]
    if isinstance(record.get("training"), dict):
        shown = [
            {"model": kind, **{k: v for k, v in curve.items() if k != "loss"}}
            for kind, curve in record["training"].items()
            if isinstance(curve, dict)
        ]
        parts += ["## training", table(shown) if shown else str(record["training"])]
    parts += ["## bars", table([{"bar": bar, **v} for bar, v in bars(record).items()])]
    parts += [f"- {name}: {why}" for name, why in record["failures"].items()]
    return "\n\n".join(parts) + "\n"


def save(out: Path, record: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "gpu.json", json.dumps({**record, "bars": bars(record)}, indent=2) + "\n")
    write_text(out / "gpu.md", page(record))


def attention_within(budget: Budget, rows: list[Any], sizes: Any, device: str) -> list[Any]:
    """Rows as long as half of the time is left, or in a dry run all."""
    for row in kernel_part.attention(sizes, device):
        rows.append(row)
        print(
            row["tokens"], {k: cell(v) for k, v in row.items() if isinstance(v, dict)}, flush=True
        )
        if budget.left < 0.45 * budget.total:
            break
    return rows


def run(args: argparse.Namespace) -> int:
    device = "cpu" if args.dry_run else "cuda"
    budget = Budget(1e6 if args.dry_run else args.minutes)
    sizes = kernel_part.TOY if args.dry_run else kernel_part.Sizes()
    name = torch.cuda.get_device_name() if device == "cuda" else platform.machine()
    record: dict[str, Any] = {
        "title": "Dry run, toy sizes: no number means anything" if args.dry_run else name,
        "kernels": str(choose("triton" if args.dry_run else None, device=device)),
        "torch": torch.__version__,
        "dry": args.dry_run,
        "failures": {},
    }
    rows: list[Any] = []
    parts: dict[str, Part] = {
        "correctness": lambda: correctness_in_processes(args),
        "neurons": lambda: kernel_part.elementwise(sizes, device),
        "attention": lambda: attention_within(budget, rows, sizes, device),
        "steps": lambda: [training_step(name, device, args.dry_run) for name in PRESETS],
        "training": lambda: train(budget, device, args.dry_run),
    }
    for part, work in parts.items():
        start = time.perf_counter()
        try:
            with kernel_part.path("triton"):
                record[part] = work()
        except Exception as error:  # the other parts are worth having
            traceback.print_exc()
            record["failures"][part] = f"{type(error).__name__}: {error}"
        print(f"{part}: {time.perf_counter() - start:.0f} s", flush=True)
        save(args.out, record)
    wrong = [row["kernel"] for row in record.get("correctness", []) if not row["passed"]]
    print((args.out / "gpu.md").read_text(encoding="utf-8"))
    if wrong:
        print("wrong:", ", ".join(wrong))
    return 1 if wrong or record["failures"] else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--shard", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.dry_run and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device; --dry-run tries the script out without one.")
    if args.shard:
        index, number = map(int, args.shard.split("/"))
        sizes = kernel_part.TOY if args.dry_run else kernel_part.Sizes()
        # A narrower shape than the timings': correctness does not need their size.
        sizes = sizes if args.dry_run else replace(sizes, heads=4)
        device = "cpu" if args.dry_run else "cuda"
        print(json.dumps(kernel_part.correctness(sizes, device, index, number)))
        return
    if args.out is None:
        folder = "gpu-dry-run" if args.dry_run else "gpu"
        args.out = Path(__file__).parent / "results" / folder
    raise SystemExit(run(args))


if __name__ == "__main__":
    main()
