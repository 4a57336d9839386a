"""Conversion of trained dense models: quality, agreement and energy against T, with controls.

    python benchmarks/conversion.py run --name twin --model runs/twin --data my_texts/
    python benchmarks/conversion.py run --name smollm2 --model FOLDER --gguf-file FILE --data ...
    python benchmarks/conversion.py table

``run`` measures every row of ``rows()`` below ``runs/conversion/NAME/``, in this process and on one
thread; finished rows, here or in ``benchmarks/results/``, are kept. Rows "tuned" train the spiking
attention of a conversion, and, as their control, the dense original on the same tokens in the same
order; after Ctrl-C a second start continues them. ``table`` writes
``benchmarks/results/conversion-NAME.json`` and ``.md``, pictures in ``docs/assets/``, and fills
docs/results.md.
Perplexity, agreement and counts are measured on the first ``--tokens`` of the validation
text, energies estimated (45 nm prices).
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import time
from pathlib import Path
from typing import Any

from _sweep import ROOT, commit, save_table, with_kept
from spikeformers.reporting.tables import markdown

RUNS = Path("runs/conversion")
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
    found: dict[str, dict[str, Any]] = {}
    for t in STEPS:
        found[f"ffn signed-if, T={t}"] = {"ffn": "signed-if", "attention": "kept", "steps": t}
    for t in PHASES:
        found[f"ffn signed-if phase, T={t}"] = {
            **{"ffn": "signed-if", "attention": "kept", "steps": t, "code": "phase"},
        }
    for t in STEPS:
        found[f"ffn qcfs, T={t}"] = {"ffn": "qcfs", "attention": "kept", "steps": t}
    for t in (4, 16):
        found[f"ssa, ffn kept, T={t}"] = {"ffn": "kept", "attention": "ssa", "steps": t}
        found[f"cwssa hard, ffn kept, T={t}"] = {"ffn": "kept", "attention": "cwssa", "steps": t}
        found[f"cwssa top-3, ffn kept, T={t}"] = {
            **{"ffn": "kept", "attention": "cwssa", "steps": t, "wta": "top_k", "winners": 3},
        }
    top_3 = {"attention": "cwssa", "wta": "top_k", "winners": 3}
    attentions = {"ssa": {"attention": "ssa"}, "cwssa hard": {"attention": "cwssa"}}
    for t in (4, 8):
        for name, choices in (attentions | {"cwssa top-3": top_3}).items():
            whole = {"ffn": "signed-if", "steps": t, "code": "phase", **choices}
            found[f"whole {name} phase, T={t}"] = whole
            for how, told in TUNINGS.items():
                found[f"whole {name} phase, T={t}, {told}"] = {**whole, "tune": how}
    found["original, tuned"] = {"tune": "lm"}
    return found


def load(args: argparse.Namespace) -> tuple[Any, Any]:
    from spikeformers.conversion import load_source

    return load_source(args.model, args.gguf_file)


def run(args: argparse.Namespace) -> None:
    import torch

    from spikeformers.conversion import Rule, calibration_windows, convert, finish, make_plan
    from spikeformers.data import load_corpus, tokenize_corpus
    from spikeformers.models import load_model
    from spikeformers.studies import measure_conversion

    torch.set_num_threads(1)
    model, tokenizer = load(args)
    store = tokenize_corpus(load_corpus(args.data), tokenizer)
    held_out, folder = store.split("validation"), RUNS / args.name
    windows = calibration_windows(store.split("train"), args.context, args.calibration_tokens)
    done = {result["row"]: result for result in results(args.name)}
    known = next((result["original"] for result in done.values()), None)
    for name, row in rows().items():
        out = folder / "".join(c if c.isalnum() or c in "-." else "_" for c in name)
        result = Path(f"{out}.json")
        if name in done:
            continue
        wanted = args.rows.split("|") if args.rows else [""]
        if not any(name == one[1:] if one[:1] == "=" else one in name for one in wanted):
            continue
        choices = {key: value for key, value in row.items() if key != "tune"}
        began, layers = time.process_time(), []
        if choices:
            shutil.rmtree(out, ignore_errors=True)
            plan = make_plan(model, **choices)
            rule = Rule(args.rule, args.percentile)
            if row.get("code") == "phase" and args.phase_margin:
                rule = Rule("percentile", 100.0, args.phase_margin)
            found = convert(model, tokenizer, windows, plan, out, rule=rule)
            finish(out)
            spiking, layers = found.model, found.layers
        seconds, tuned = time.process_time() - began, {}
        if "tune" in row:
            started = spiking if choices else load(args)[0].requires_grad_(True)
            tuned = tune(args, started, store, tokenizer, f"{out}-tuned", row["tune"])
            spiking = load_model(f"{out}-tuned")[0]
        measured = measure_conversion(
            spiking, model, tokenizer, held_out,
            context=args.context, tokens=args.tokens, original_figures=known,
        )  # fmt: skip
        known = measured["original"]
        keys = (
            "name",
            "context",
            "tokens",
            "calibration_tokens",
            "rule",
            "percentile",
            "phase_margin",
        )
        summary = {
            "row": name,
            "choices": row,
            "setting": {key: getattr(args, key) for key in keys},
            "source_type": model.config.model_type,
            "parameters": model.num_parameters(),
            "conversion_cpu_seconds": seconds,
            "tuned": tuned,
            "layers": layers,
            **measured,
            "commit": commit(),
            "machine": f"{platform.machine()}, {platform.system()}, one thread",
            "torch": torch.__version__,
        }
        result.parent.mkdir(parents=True, exist_ok=True)
        partial = result.with_suffix(".partial")
        partial.write_text(json.dumps(summary, indent=1))
        partial.replace(result)
        shutil.rmtree(out, ignore_errors=True)
        ours = measured["spiking"]["perplexity"]
        print(f"{name}: {ours:.3f} (original {known['perplexity']:.3f})", flush=True)


def tune(
    args: argparse.Namespace, model: Any, store: Any, tokenizer: Any, out: str, how: str
) -> dict[str, Any]:
    """Train the spiking attention, or all of a dense model, on the same tokens.

    "transfer-lm" and "transfer-kd" are two runs, the first with ``--transfer-share`` of the steps,
    the second with a seed, and so with windows, of its own.
    """
    stages, found = how.split("-"), []
    first = round(args.tune_steps * args.transfer_share)
    share = [first, args.tune_steps - first] if len(stages) == 2 else [args.tune_steps]
    for number, stage in enumerate(stages):
        folder = f"{out}-{number}" if number + 1 < len(stages) else out
        if found:
            from spikeformers.models import load_model

            model = load_model(f"{out}-{number - 1}")[0]
        found.append(_stage(args, model, store, tokenizer, folder, stage, number, share[number]))
    steps = tokens = 0
    curve: list[tuple[int, float]] = []
    for one in found:
        curve += [(steps + step, loss) for step, loss in one["validation"]]
        steps, tokens = steps + one["steps"], tokens + one["tokens"]
    return {
        "steps": steps,
        "tokens": tokens,
        "learning_rate": [one["learning_rate"] for one in found],
        "steps_of_stages": share,
        "precision": args.precision,
        "validation": curve,
        "seconds": sum(one["seconds"] for one in found),
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
    every = max(1, args.tune_steps // args.tune_points)
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
    if model.config.model_type == "neurtransformer":
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


def results(name: str) -> list[dict[str, Any]]:
    """All results of one model."""
    found = [json.loads(path.read_text()) for path in (RUNS / name).glob("*.json")]
    return with_kept(f"conversion-{name}", found)


def table(_: argparse.Namespace) -> None:
    """Write table, picture and JSON of every model that has results."""
    from spikeformers.reporting.conversion_pictures import against_steps

    order = list(rows())
    for folder in sorted(path for path in RUNS.iterdir() if path.is_dir()):
        found = [result for result in results(folder.name) if result["row"] in order]
        found.sort(key=lambda result: order.index(result["row"]))
        if not found:
            continue
        without_layers = [{k: v for k, v in r.items() if k != "layers"} for r in found]
        save_table(f"conversion-{folder.name}", page(folder.name, found), without_layers)
        for key, label, level in (
            ("perplexity", "perplexity", found[0]["original"]["perplexity"]),
            ("agreement", "share of tokens with the same most likely next token", 1.0),
        ):
            curves: dict[str, dict[int, float]] = {}
            for r in found:
                if "tune" not in r["choices"] and not r["row"].startswith("whole"):
                    name = r["row"].rpartition(", T=")[0]
                    value = r["spiking"] if key == "perplexity" else r["agreement"]
                    curves.setdefault(name, {})[r["choices"]["steps"]] = value[key]
            if max(map(len, curves.values()), default=0) < 3:  # nothing to draw a line through
                continue
            against_steps(
                ROOT / "docs" / "assets" / f"conversion-{folder.name}-{key}.png",
                curves,
                ylabel=label,
                title=f"{folder.name}: {key} after conversion, without fine-tuning",
                level=level,
                level_name="original",
            )


def page(name: str, found: list[dict[str, Any]]) -> str:
    """One line per row."""
    setting, original = found[0]["setting"], found[0]["original"]
    commits = ", ".join(sorted({r["commit"] for r in found}))
    lines = [
        f"{name} ({found[0]['source_type']}, {found[0]['parameters']:,} parameters): perplexity "
        f"{original['perplexity']:.3f}, {original['bits_per_byte']:.4f} bits per byte on "
        f"{original['tokens']:,} validation tokens, windows of {setting['context']}, stride one "
        f"less; calibrated on {setting['calibration_tokens']:,} training tokens, thresholds by "
        f"{setting['rule']}{_room(setting['phase_margin'])}; commits {commits}; torch "
        f"{found[0]['torch']}, {found[0]['machine']}. Quality and spikes measured, energies "
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
    for r in found:
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
    tuned = [r for r in found if r["tuned"]]
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


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(required=True)
    one = verbs.add_parser("run")
    one.set_defaults(do=run)
    one.add_argument("--name", required=True)
    one.add_argument("--model", required=True)
    one.add_argument("--gguf-file", default="")
    one.add_argument("--data", required=True)
    one.add_argument("--context", type=int, default=128)
    one.add_argument("--tokens", type=int, default=32768)
    one.add_argument("--calibration-tokens", type=int, default=2048)
    one.add_argument("--rule", default="mse")
    one.add_argument("--percentile", type=float, default=99.9)
    one.add_argument(
        "--phase-margin",
        type=float,
        default=0.0,
        help="phase-coded rows: the largest values, and room of this factor",
    )
    one.add_argument("--rows", default="", help="parts of row names, or =NAME, separated by |")
    one.add_argument("--tune-steps", type=int, default=300)
    one.add_argument("--batch", type=int, default=16)
    one.add_argument("--learning-rate", type=float, default=1e-3)
    one.add_argument("--transfer-learning-rate", type=float, help="as the others unless given")
    one.add_argument("--transfer-share", type=float, default=0.5, help="of steps in two stages")
    one.add_argument("--tune-points", type=int, default=6, help="validations of a tuned row")
    one.add_argument("--precision", default="fp32", help="of tuning: fp32 or bf16")
    other = verbs.add_parser("table")
    other.set_defaults(do=table)
    args = parser.parse_args()
    args.do(args)


if __name__ == "__main__":
    main()
