r"""Zero-shot scores of several models over the paper's eight sets, beside chance and majority.

    python benchmarks/zeroshot.py run --name small --data-dir SETS \
        --model "dense twin=runs/twin" --model "spiking=runs/mine"
    python benchmarks/zeroshot.py run --name smollm2 --data-dir SETS \
        --model "SmolLM2-135M=FOLDER:FILE.gguf" --model "in the engine=FILE.engine" --batch-size 16
    python benchmarks/zeroshot.py check --name small --data-dir SETS --model "dense=runs/twin" \
        --limit 500
    python benchmarks/zeroshot.py table

``check`` scores the same documents with lm-evaluation-harness's own Hugging Face backend, in
batches of the same size, and says whether any log-likelihood differs; log-softmax in float32 in
both; into ``benchmarks/results/zeroshot-NAME-check.json``, task by task. An interrupted ``run``
continues where it was; tasks that are in ``benchmarks/results/`` count as done. Scores are
measured, in percent, with the standard error over documents; a star marks what lies within two
of it from chance.
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _sweep import RESULTS, commit, fill_pages, save_table
from spikeformers.models.reference import DTYPES
from spikeformers.reporting.tables import markdown
from spikeformers.storage import write_text

if TYPE_CHECKING:
    from spikeformers.evaluation.zeroshot import TaskReport

RUNS = Path("runs/zeroshot")


def named(text: str) -> tuple[str, str, str]:
    """(name, folder, GGUF file) of ``NAME=FOLDER[:FILE]``."""
    name, equals, where = text.rpartition("=")  # a name may say "T = 4"
    if not equals or not name or not where:
        raise argparse.ArgumentTypeError(f"{text!r} must be NAME=FOLDER or NAME=FOLDER:FILE.gguf")
    folder, colon, file = where.rpartition(":")
    return (name, folder, file) if colon and file.endswith(".gguf") else (name, where, "")


def run(args: argparse.Namespace) -> None:
    import torch

    from spikeformers.engine import is_engine_file, load
    from spikeformers.evaluation.zeroshot import Zeroshot, resolve
    from spikeformers.models import load_reference
    from spikeformers.studies.engine_reader import EngineReader, tokenizer_of

    torch.set_num_threads(1)
    for name, folder, file in args.model:
        model: Any
        if is_engine_file(folder):
            engine = load(folder, threads=1)
            model, tokenizer = EngineReader(engine), tokenizer_of(engine)
        else:
            model, tokenizer = load_reference(folder, gguf_file=file, dtype=args.dtype)
        scorer = Zeroshot(
            name, model, tokenizer, batch_size=args.batch_size, cached=args.cached, progress=_say
        )
        out = RUNS / args.name / f"{''.join(c if c.isalnum() else '_' for c in name)}.json"
        out.parent.mkdir(parents=True, exist_ok=True)
        before = {scored["model"]["name"]: scored for scored in results(args.name)}
        tasks = before.get(name, {}).get("tasks", {})
        if tasks and (before[name]["model"]["dtype"], before[name]["settings"]) != (
            scorer.record["dtype"],
            scorer.settings,
        ):
            raise SystemExit(
                f"{name}: has results of another precision or other settings in the table "
                f"{args.name!r}. Give the new run a --name of its own."
            )
        reports: list[TaskReport] = []
        for task in resolve(args.tasks):
            if task in tasks and tasks[task]["limit"] == args.limit:
                continue
            reports.append(scorer.run(task, data_dir=args.data_dir, limit=args.limit))
            acc = reports[-1].metrics["acc"]
            print(f"{name}, {task}: {acc['value']:.4f} ± {acc['stderr']:.4f}", flush=True)
            result = scorer.result(reports)
            for of_task in result["tasks"].values():
                of_task["commit"] = result["commit"]  # of a task: starts may be days apart
            result["tasks"] = tasks | result["tasks"]
            write_text(out, json.dumps(_without_samples(result), indent=1))


def _say(task: str, done: int, total: int) -> None:
    print(f"\r{task} {done:,}/{total:,}", end="\n" if done == total else "", flush=True)


def check(args: argparse.Namespace) -> None:
    """Both backends over the same documents; exit code 1 where one log-likelihood differs."""
    import torch
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    from spikeformers.evaluation.zeroshot import resolve
    from spikeformers.evaluation.zeroshot.scorer import SpikeformersLM
    from spikeformers.evaluation.zeroshot.tasks import load_task
    from spikeformers.models import load_reference

    torch.set_num_threads(1)
    if args.batch_size == "auto":
        raise SystemExit("check: --batch-size must be a number, so that batches are the same.")
    size = int(args.batch_size)
    kept = RESULTS / f"zeroshot-{args.name}-check.json"
    records = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else []
    for name, folder, file in args.model:
        model, tokenizer = load_reference(folder, gguf_file=file, dtype=args.dtype)
        backends = {
            "spikeformers": SpikeformersLM(model, tokenizer, batch_size=size),
            "harness": HFLM(
                pretrained=model, tokenizer=tokenizer, batch_size=size, softmax_dtype="float32"
            ),
        }
        setting = {"dtype": str(model.dtype).removeprefix("torch."), "batch_size": size}
        for task in resolve(args.tasks):
            request = {"model": name, "task": task, "limit": args.limit, **setting}
            if any(all(entry[key] == value for key, value in request.items()) for entry in records):
                continue
            scored: dict[str, Any] = {}
            for backend, lm in backends.items():
                entry = load_task(task, args.data_dir).task
                entry.set_config("num_fewshot", 0)
                limit = min(args.limit or len(entry.eval_docs), len(entry.eval_docs))
                scored[backend] = evaluate(lm, {"tasks": {task: entry}}, limit=limit)
            values = [
                [value for row in f["samples"][task] for ((value, _),) in row["resps"]]
                for f in scored.values()
            ]
            apart = [abs(a - b) for a, b in zip(*values, strict=True)]
            record = {
                **request,
                "documents": limit,
                "log_likelihoods": len(apart),
                "largest_difference": max(apart),
                "acc": {key: f["results"][task]["acc,none"] for key, f in scored.items()},
                "commit": commit(),
                **{key: version(key) for key in ("lm_eval", "torch", "transformers")},
            }
            print(json.dumps(record), flush=True)
            records.append(record)
            write_text(kept, json.dumps(records, indent=1) + "\n")
    raise SystemExit(1 if any(entry["largest_difference"] for entry in records) else 0)


def check_table(name: str) -> None:
    """Write the table of ``check``, one line per task."""
    kept = RESULTS / f"{name}.json"
    records = json.loads(kept.read_text(encoding="utf-8"))
    rows = [
        [
            entry["model"],
            entry["task"],
            f"{entry['documents']:,}",
            f"{entry['log_likelihoods']:,}",
            *(f"{100 * entry['acc'][key]:.4g}" for key in ("spikeformers", "harness")),
            f"{entry['largest_difference']:g}",
        ]
        for entry in records
    ]
    first = records[0]
    commits = ", ".join(sorted({entry["commit"] for entry in records}))
    head = (
        f"Both backends, {first['dtype']}, batches of {first['batch_size']}; lm_eval "
        f"{first['lm_eval']}, torch {first['torch']}, transformers {first['transformers']}; "
        f"commits {commits}. Measured."
    )
    columns = ["model", "task", "documents", "log-likelihoods", "acc, here", "acc, harness"]
    text = f"{head}\n\n{markdown([*columns, 'largest difference'], rows)}"
    write_text(RESULTS / f"{name}.md", text)
    fill_pages(name, text)
    print(text)


def results(name: str) -> list[dict[str, Any]]:
    """What a table has: models of this machine's runs, and those kept that it did not run."""
    paths = sorted((RUNS / name).glob("*.json"))
    present = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    kept = RESULTS / f"zeroshot-{name}.json"
    old = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else []
    have = {result["model"]["name"] for result in present}
    return present + [result for result in old if result["model"]["name"] not in have]


def table() -> None:
    from spikeformers.evaluation.zeroshot.run import means

    kept = {path.stem.removeprefix("zeroshot-") for path in RESULTS.glob("zeroshot-*.json")}
    kept = {name for name in kept if not name.endswith("-check")}
    for name in sorted(kept | {path.name for path in RUNS.glob("*/")}):
        present = results(name)
        if not present:
            continue
        present = [result | {"means": means(metrics_of(result))} for result in present]
        stem = f"zeroshot-{name}"
        text = tabulate(present)
        save_table(stem, text, present)
    for path in sorted(RESULTS.glob("zeroshot-*-check.json")):
        check_table(path.stem)


def _without_samples(result: dict[str, Any]) -> dict[str, Any]:
    tasks = {
        name: {key: value for key, value in task.items() if key != "samples"}
        for name, task in result["tasks"].items()
    }
    return result | {"tasks": tasks}


def metrics_of(result: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """Metrics by task of one model's result."""
    return {task: of_task["metrics"] for task, of_task in result["tasks"].items()}


def tabulate(models: list[dict[str, Any]]) -> str:
    """A column a task and metric, then the paper's means; a line a model, chance and majority."""
    scores = []
    for result in models:
        groups = {f"mean, {group}:": figures for group, figures in result["means"].items()}
        scores.append(metrics_of(result) | groups)
    columns = list(
        dict.fromkeys(
            (task, metric)
            for result in scores
            for task, figures in result.items()
            for metric in ("acc", "acc_norm")
            if metric in figures
        )
    )
    columns.sort(key=lambda column: column[0].startswith("mean, "))
    rows = []
    for result, figures in zip(models, scores, strict=True):
        cells = [_cell(figures.get(task, {}).get(metric)) for task, metric in columns]
        rows.append([result["model"]["name"], f"{result['model']['parameters']:,}", *cells])
    for key in ("chance", "majority"):
        cells = [
            _baseline([result.get(task, {}).get(m) for result in scores], key)
            for task, m in columns
        ]
        rows.append([key, "", *cells])
    first = models[0]
    figures = [
        (result, task, figures) for result in models for task, figures in result["tasks"].items()
    ]
    counts = sorted({f"{task} {t['documents']:,} ({t['split']})" for _, task, t in figures})
    commits = sorted({str(t.get("commit", result["commit"]))[:7] for result, _, t in figures})
    kinds = ", ".join(sorted({result["model"]["dtype"] for result in models}))
    head = (
        f"Zero-shot, in percent, ± standard error; * within two standard errors of chance. "
        f"Documents: {', '.join(counts)}. lm_eval {first['versions']['lm_eval']}, torch "
        f"{first['versions']['torch']}; {kinds}; commits {', '.join(commits)}. Measured."
    )
    if any(result["means"] for result in models):
        head += " Means of acc_norm use acc for tasks without it."
    titles = [f"{task} {metric}" for task, metric in columns]
    return f"{head}\n\n{markdown(['model', 'parameters', *titles], rows)}"


def _cell(figures: dict[str, Any] | None) -> str:
    if figures is None:
        return "-"
    star = "*" * bool(figures["at_chance"])
    return f"{100 * figures['value']:.1f} ± {100 * figures['stderr']:.1f}{star}"


def _baseline(column: list[dict[str, Any] | None], key: str) -> str:
    values = [
        figures[key] for figures in column if figures is not None and figures[key] is not None
    ]
    return f"{100 * values[0]:.1f}" if values else "-"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for command in ("run", "check"):
        sub = commands.add_parser(command)
        sub.add_argument("--model", type=named, action="append", required=True)
        sub.add_argument("--tasks", default="paper")
        sub.add_argument("--data-dir", type=Path)
        sub.add_argument("--limit", type=int)
        sub.add_argument("--dtype", default="auto", choices=list(DTYPES))
        sub.add_argument("--batch-size", default="auto" if command == "run" else "8")
        sub.add_argument("--name", default="models", help="of the table")
    commands.choices["run"].add_argument("--cached", action="store_true")
    commands.add_parser("table", help="write the tables of all results")
    args = parser.parse_args()
    if args.command == "table":
        table()
    else:
        if args.batch_size != "auto":
            args.batch_size = int(args.batch_size)
        {"run": run, "check": check}[args.command](args)


if __name__ == "__main__":
    main()
