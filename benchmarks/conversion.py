"""Conversion of trained dense models: quality, agreement and energy against T, with controls.

    python benchmarks/conversion.py run --name twin --model runs/twin --data my_texts/
    python benchmarks/conversion.py run --name smollm2 --model FOLDER --gguf-file FILE --data ...
    python benchmarks/conversion.py table

``run`` measures every row of ``ROWS`` below ``runs/conversion/NAME/``, each in a process of its own
on one thread (`_sweep.py`). Rows "tuned" train the spiking attention of a conversion, and, as their
control, the dense original on the same tokens in the same order, in ``--steps`` steps. ``table``
writes ``benchmarks/results/conversion-NAME.json`` and ``.md``, pictures in ``docs/assets/``, and
fills docs/results/.
Perplexity, agreement and counts are measured on the first ``--tokens`` of the validation
text, energies estimated (45 nm prices).
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from _sweep import ROOT, Sweep
from spikeformers.meters import Stopwatch
from spikeformers.reporting.tables import markdown
from spikeformers.storage import write_text

STEPS = (1, 2, 4, 8, 16, 32)
PHASES = (2, 4, 6, 8, 10, 12)
TUNINGS = {
    "lm": "tuned",
    "kd": "tuned with KD",
    "transfer": "attention transfer",
    "transfer-lm": "transfer, then tuned",
    "transfer-kd": "transfer, then tuned with KD",
}
"""How the attention of a whole spiking model learns, all on as many tokens."""


def rows() -> dict[str, dict[str, Any]]:
    """Name of a row -> fields of NeurTransformerConfig, and how it is tuned."""
    named: dict[str, dict[str, Any]] = {}
    for t in STEPS:
        named[f"ffn signed-if, T={t}"] = {"ffn": "signed-if", "attention": "kept", "steps": t}
    for t in PHASES:
        named[f"ffn signed-if phase, T={t}"] = {
            **{"ffn": "signed-if", "attention": "kept", "steps": t, "code": "phase"},
        }
    for t in STEPS:
        named[f"ffn qcfs, T={t}"] = {"ffn": "qcfs", "attention": "kept", "steps": t}
    for t in (4, 16):
        named[f"ssa, ffn kept, T={t}"] = {"ffn": "kept", "attention": "ssa", "steps": t}
        named[f"cwssa hard, ffn kept, T={t}"] = {"ffn": "kept", "attention": "cwssa", "steps": t}
        named[f"cwssa top-3, ffn kept, T={t}"] = {
            **{"ffn": "kept", "attention": "cwssa", "steps": t, "wta": "top_k", "winners": 3},
        }
    top_3 = {"attention": "cwssa", "wta": "top_k", "winners": 3}
    attentions = {"ssa": {"attention": "ssa"}, "cwssa hard": {"attention": "cwssa"}}
    attentions |= {"power-of-two": {"attention": "power-of-two"}}
    for t in (4, 8):
        for name, choices in (attentions | {"cwssa top-3": top_3}).items():
            whole = {"ffn": "signed-if", "steps": t, "code": "phase", **choices}
            named[f"whole {name} phase, T={t}"] = whole
            for how, title in TUNINGS.items():
                named[f"whole {name} phase, T={t}, {title}"] = {**whole, "tune": how}
    named["original, tuned"] = {"tune": "lm"}
    return named


ROWS = rows()


def load(args: argparse.Namespace) -> tuple[Any, Any]:
    from spikeformers.conversion import load_source

    return load_source(args.model, args.gguf_file)


def train_one(args: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Convert, tune and measure one row below ``out``."""
    from spikeformers.data import load_corpus, tokenize_corpus
    from spikeformers.models import load_model
    from spikeformers.studies import measure_conversion

    choices = {key: value for key, value in ROWS[args.row].items() if key != "tune"}
    how = ROWS[args.row].get("tune")
    model, tokenizer = load(args)
    store = tokenize_corpus(load_corpus(args.data), tokenizer)
    watch, layers, tuned = Stopwatch(), [], {}
    if choices:
        spiking, layers = converted(args, model, tokenizer, store.split("train"), out)
    conversion_seconds = watch.read().cpu
    if how:
        started = spiking if choices else load(args)[0].requires_grad_(True)
        tuned = tune(args, started, store, tokenizer, str(out / "tuned"), how)
        spiking = load_model(str(out / "tuned"))[0]
    measured = measure_conversion(
        spiking, model, tokenizer, store.split("validation"),
        context=args.context, tokens=args.tokens, original_figures=original_of(args),
    )  # fmt: skip
    shutil.rmtree(out / "model", ignore_errors=True)
    write_text(out / "layers.json", json.dumps(layers, indent=1))
    ours, theirs = (measured[side]["perplexity"] for side in ("spiking", "original"))
    print(f"{args.row}: {ours:.3f} (original {theirs:.3f})", flush=True)
    keys = ("name", "context", "tokens", "calibration_tokens", "rule", "percentile", "phase_margin")
    return {
        "choices": ROWS[args.row],
        "setting": {key: getattr(args, key) for key in keys},
        "source_type": model.config.model_type,
        "parameters": model.num_parameters(),
        "conversion_cpu_seconds": conversion_seconds,
        "tuned": tuned,
        **measured,
    }


def converted(
    args: argparse.Namespace, model: Any, tokenizer: Any, text: Any, out: Path
) -> tuple[Any, list[dict[str, Any]]]:
    """The spiking model of the row, and what the conversion of each module changed."""
    from spikeformers.conversion import Rule, calibration_windows, convert, finish, make_plan

    choices = {key: value for key, value in ROWS[args.row].items() if key != "tune"}
    rule = Rule(args.rule, args.percentile)
    if choices.get("code") == "phase" and args.phase_margin:
        rule = Rule("percentile", 100.0, args.phase_margin)
    windows = calibration_windows(text, args.context, args.calibration_tokens)
    shutil.rmtree(out / "model", ignore_errors=True)
    result = convert(
        model, tokenizer, windows, make_plan(model, **choices), out / "model", rule=rule
    )
    finish(out / "model")
    return result.model, result.layers


def original_of(args: argparse.Namespace) -> dict[str, Any] | None:
    """Figures of the original, which another row has measured already; None if there is none."""
    return next((result["original"] for result in SWEEP.results(args.name)), None)


def tune(
    args: argparse.Namespace, model: Any, store: Any, tokenizer: Any, out: str, how: str
) -> dict[str, Any]:
    """Train the spiking attention, or all of a dense model, on the same tokens.

    "transfer-lm" and "transfer-kd" are two runs, the first with ``--transfer-share`` of the steps,
    the second with a seed, and so with windows, of its own.
    """
    stages, runs = how.split("-"), []
    first = round(args.steps * args.transfer_share)
    share = [first, args.steps - first] if len(stages) == 2 else [args.steps]
    for number, stage in enumerate(stages):
        folder = f"{out}-{number}" if number + 1 < len(stages) else out
        if runs:
            from spikeformers.models import load_model

            model = load_model(f"{out}-{number - 1}")[0]
        runs.append(_stage(args, model, store, tokenizer, folder, stage, number, share[number]))
    steps = tokens = 0
    curve: list[tuple[int, float]] = []
    for run in runs:
        curve += [(steps + step, loss) for step, loss in run["validation"]]
        steps, tokens = steps + run["steps"], tokens + run["tokens"]
    return {
        "steps": steps,
        "tokens": tokens,
        "learning_rate": [run["learning_rate"] for run in runs],
        "steps_of_stages": share,
        "precision": args.precision,
        "validation": curve,
        "seconds": sum(run["seconds"] for run in runs),
    }


def _stage(
    args: argparse.Namespace,
    model: Any,
    store: Any,
    tokenizer: Any,
    out: str,
    how: str,
    number: int,
    steps: int,
) -> dict[str, Any]:
    from spikeformers.models import load_reference
    from spikeformers.training import TrainConfig, train
    from spikeformers.training.task import Task
    from spikeformers.training.transfer import AttentionTransfer
    from spikeformers.training.tune_converted import ConvertedTuning, DistilledTuning

    rate = args.learning_rate
    if how == "transfer" and args.transfer_learning_rate is not None:
        rate = args.transfer_learning_rate
    every = max(1, args.steps // args.tune_points)
    config = TrainConfig(
        steps=steps,
        batch_size=args.batch,
        context=args.context,
        learning_rate=rate,
        weight_decay=0.0,
        seed=number,
        threads=1,
        precision=args.precision,
        eval_every=every,
        eval_batches=8,
        save_every=every,
        keep_checkpoints=1,
    )
    task: Task = Task(model)
    if ROWS[args.row].keys() != {"tune"}:
        task = ConvertedTuning(model, "attention")
        if how != "lm":
            dtype = "bf16" if args.precision == "bf16" else "auto"
            teacher = load_reference(args.model, gguf_file=args.gguf_file, dtype=dtype)[0]
            task = (
                AttentionTransfer(model, teacher)
                if how == "transfer"
                else DistilledTuning(model, teacher, "attention", 0.5, 2.0)
            )
    result = train(
        model, store, tokenizer, out, config,
        task=task, resume=(Path(out) / "run.json").is_file(), progress=False,
    )  # fmt: skip
    if result.interrupted:
        raise SystemExit(130)
    lines = [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]
    return {
        "steps": result.steps,
        "tokens": result.tokens_seen,
        "learning_rate": rate,
        "validation": [(x["step"], x["loss"]) for x in lines if x["kind"] == "validation"],
        "seconds": result.seconds,
    }


def _room(margin: float) -> str:
    return f" (phase: the largest values, hidden ones times {margin:g})" if margin else ""


def table(name: str, results: list[dict[str, Any]]) -> str:
    """Draw the pictures; the table, one line per row."""
    order = list(ROWS)
    ordered = [result for result in results if result["row"] in order]
    ordered.sort(key=lambda result: order.index(result["row"]))
    for key, label, level in (
        ("perplexity", "perplexity", ordered[0]["original"]["perplexity"]),
        ("agreement", "share of tokens with the same most likely next token", 1.0),
    ):
        draw(name, ordered, key, label, level)
    return page(name, ordered)


def draw(name: str, results: list[dict[str, Any]], key: str, label: str, level: float) -> None:
    """A picture of ``key`` against T, without tuned rows; none if no line has three points."""
    from spikeformers.reporting.conversion_pictures import against_steps

    curves: dict[str, dict[int, float]] = {}
    for result in results:
        if "tune" not in result["choices"] and not result["row"].startswith("whole"):
            line = result["row"].rpartition(", T=")[0]
            value = result["spiking" if key == "perplexity" else "agreement"][key]
            curves.setdefault(line, {})[result["choices"]["steps"]] = value
    if max(map(len, curves.values()), default=0) < 3:
        return
    against_steps(
        ROOT / "docs" / "assets" / f"conversion-{name}-{key}.png",
        curves,
        ylabel=label,
        title=f"{name}: {key} after conversion, without fine-tuning",
        level=level,
        level_name="original",
    )


def page(name: str, results: list[dict[str, Any]]) -> str:
    """One line per row."""
    first = results[0]
    setting, original = first["setting"], first["original"]
    commits = ", ".join(sorted({r["commit"] for r in results}))
    lines = [
        f"{name} ({first['source_type']}, {first['parameters']:,} parameters): perplexity "
        f"{original['perplexity']:.3f}, {original['bits_per_byte']:.4f} bits per byte on "
        f"{original['tokens']:,} validation tokens, windows of {setting['context']}, stride one "
        f"less; calibrated on {setting['calibration_tokens']:,} training tokens, thresholds by "
        f"{setting['rule']}{_room(setting['phase_margin'])}; commits {commits}; torch "
        f"{first['torch']}, {first['machine']}. Quality and spikes measured, energies "
        "estimated, as shares of the original's: attention block and whole model by the papers' "
        "sum, and with elementwise work.",
        "",
    ]
    columns = (
        *("row", "perplexity", "change", "bits/byte", "agreement", "cosine logits"),
        *("cosine hidden", "spikes per value", "feed-forward", "attention", "attention, fuller"),
        *("whole", "whole, fuller"),
    )
    cells = []
    for r in results:
        ours, theirs, agree = r["spiking"], r["original"], r["agreement"]
        keys = (
            *("mlp_papers", "attention_papers", "attention_with_elementwise"),
            *("papers", "with_elementwise"),
        )
        shares = [f"{ours['energy'][key] / theirs['energy'][key]:.3f}" for key in keys]
        spikes, perplexity = ours["energy"]["mean_count"], ours["perplexity"]
        ratio = perplexity / theirs["perplexity"]
        cells.append(
            [
                r["row"],
                f"{perplexity:.3f}" if perplexity < 1000 else f"{perplexity:,.0f}",
                f"{ratio - 1:+.2%}" if ratio < 10 else f"{ratio:,.0f} times",
                f"{ours['bits_per_byte']:.4f}",
                *(f"{agree[k]:.4f}" for k in ("agreement", "logit_cosine", "hidden_cosine")),
                "-" if spikes is None else f"{spikes:.2f}",
                *shares,
            ]
        )
    lines.append(markdown(columns, cells).rstrip("\n"))
    tuned = [r for r in results if r["tuned"]]
    for r in tuned:
        curve = ", ".join(f"{step}: {loss:.3f}" for step, loss in r["tuned"]["validation"])
        rates = r["tuned"]["learning_rate"]
        rate = " then ".join(f"{x:g}" for x in (rates if isinstance(rates, list) else [rates]))
        stages = r["tuned"].get("steps_of_stages", [])
        parts = f" ({' + '.join(map(str, stages))})" if len(stages) > 1 else ""
        lines.append(
            f"\n{r['row']}: {r['tuned']['steps']} steps{parts}, {r['tuned']['tokens']:,} tokens, "
            f"lr {rate}, {r['tuned']['seconds']:,.0f} s, "
            f"{r['tuned'].get('precision', 'fp32')}. Validation loss by step (nats per token): "
            f"{curve}."
        )
    return "\n".join(lines) + "\n"


def options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(steps=300)
    parser.add_argument("--model", required=True, help="folder of a dense causal model")
    parser.add_argument("--gguf-file", default="")
    parser.add_argument("--tokens", type=int, default=32768, help="of the validation text")
    parser.add_argument("--calibration-tokens", type=int, default=2048)
    parser.add_argument("--rule", default="mse")
    parser.add_argument("--percentile", type=float, default=99.9)
    parser.add_argument(
        "--phase-margin",
        type=float,
        default=0.0,
        help="phase-coded rows: the largest values, and room of this factor",
    )
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--transfer-learning-rate", type=float, help="as the others unless given")
    parser.add_argument("--transfer-share", type=float, default=0.5, help="of steps in two stages")
    parser.add_argument("--tune-points", type=int, default=6, help="validations of a tuned row")
    parser.add_argument("--precision", default="fp32", help="of tuning: fp32 or bf16")


SWEEP = Sweep(__file__, "conversion", dict.fromkeys(ROWS, (0,)), train_one, table, options)

if __name__ == "__main__":
    SWEEP.main(__doc__)
