"""Density by training: perplexity of a converted model against the share of weights it reads.

    python benchmarks/density.py run --name smollm2-135m --model FOLDER --data TEXTS
        --text wikitext-2=wiki.test.raw --text books=BOOKS/test --steps 100 --batch 4 --context 256
    python benchmarks/density.py speed --name smollm2-135m --model FOLDER --data TEXTS
    python benchmarks/density.py table

Rows "trained" learn all weights by ``finetune-attention --train everything --density`` from the
text of ``--data`` and a teacher (half and half): the dense original, or in rows that say so the
control. The control is the original, trained on the same tokens in the same order with the language
model's loss; it is run first. Rows without "trained" have the dead zones of their density and
nothing else. All are then measured on the same windows of the
texts, on which nothing was trained, as in ``token_threshold.py``: a change is
``exp(mean difference of losses) - 1`` with the standard error of the mean over windows. With
``--search`` each trained row has a learning rate of its own, chosen by the validation text of
``--data``. Everything runs in float32 on one thread. ``speed`` decodes test text with the trained
models of this machine in the engine, and with the converted original without dead zones, in turns:
run it where nothing else runs.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from _speed import load_speed, packed, speed_options, speed_table, time_rows, with_huge_pages
from _sweep import Sweep, at_best_rate, search_table
from _windows import digest_of, token_ids, windows_of
from spikeformers.reporting.tables import markdown
from spikeformers.storage import write_text
from token_threshold import changes, losses_of

DENSITIES = (0.8, 0.65, 0.5, 0.35)
DENSE, TRAINED = "dense", "dense, trained"
ORIGINAL, CONTROL = "original", "control"


@dataclass(frozen=True)
class Row:
    """The density that is asked for, None for a dense model; and the teacher of trained weights."""

    density: float | None = None
    teacher: str = ""

    @property
    def trained(self) -> bool:
        return bool(self.teacher)


ROWS = {
    DENSE: Row(),
    TRAINED: Row(teacher="the text"),
    **{f"density {density}": Row(density) for density in DENSITIES},
    **{f"density {density}, trained": Row(density, ORIGINAL) for density in DENSITIES},
    **{
        f"density {density}, trained, the control as teacher": Row(density, CONTROL)
        for density in DENSITIES
    },
}
SPIKING: dict[str, Any] = {"threshold": "token", "attention": "kept", "steps": 8}
RATES = (1e-4, 3e-4)
SETTING = ("steps", "batch", "context", "windows", "window")


def train_one(args: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Convert, train and measure one row below ``out``."""
    import torch

    from spikeformers.conversion import load_source

    row = ROWS[args.row]
    dense, tokenizer = load_source(args.model, args.gguf_file)
    tuned: dict[str, Any] = {"learning_rate": 0.0, "validation_loss": 0.0}
    model = dense
    if row.trained:
        model, tuned = train_row(args, dense, tokenizer, row, out)
    elif row.density is not None:
        model = silenced(args, dense, tokenizer, row.density)
    model.eval()
    windows = {
        name: torch.tensor(windows_of(token_ids(tokenizer, path), args.windows, args.window))
        for name, path in (text.split("=", 1) for text in args.text)
    }
    losses: dict[str, list[float]] = {name: [] for name in windows}
    shares = {
        name: losses_of(model, ids, losses[name], lambda: None) for name, ids in windows.items()
    }
    print(f"{args.row}: {shares}", flush=True)
    digests = {name: digest_of(ids) for name, ids in windows.items()}
    return {
        "setting": {key: getattr(args, key) for key in SETTING} | {"sha256_of_windows": digests},
        "parameters": model.num_parameters(),
        "losses": losses,
        "shares": shares if row.density is not None else {},
        **tuned,
    }


def spiking(dense: Any) -> Any:
    """The converted model, without dead zones."""
    from spikeformers.conversion import make_plan, uncalibrated

    return uncalibrated(dense, make_plan(dense, **SPIKING))


def silenced(args: argparse.Namespace, dense: Any, tokenizer: Any, density: float) -> Any:
    """The converted model with the dead zones of ``density``, not trained."""
    from spikeformers.conversion import allocate, calibration_windows
    from spikeformers.data import load_corpus, tokenize_corpus

    model = spiking(dense)
    store = tokenize_corpus(load_corpus(args.data), tokenizer)
    allocate(model, calibration_windows(store.split("train"), args.context, 2048), density)
    return model


def train_row(
    args: argparse.Namespace, dense: Any, tokenizer: Any, row: Row, out: Path
) -> tuple[Any, dict[str, Any]]:
    """The trained model of a row, and what its training was; it resumes."""
    from spikeformers import runs
    from spikeformers.conversion import convert, finish, make_plan
    from spikeformers.data import load_corpus, tokenize_corpus
    from spikeformers.training import TrainConfig, train

    every = max(1, args.steps // 3)
    settings: dict[str, Any] = {
        **{"steps": args.steps, "batch_size": args.batch, "context": args.context},
        **{"learning_rate": args.rate or RATES[0], "weight_decay": 0.0, "seed": args.seed},
        **{"eval_every": every, "save_every": every, "keep_checkpoints": 1, "eval_batches": 4},
        **{"threads": 1, "log_every": 5},
    }
    folder = out / "run"
    resume = (folder / "run.json").is_file()
    if row.density is None:
        store = tokenize_corpus(load_corpus(args.data), tokenizer)
        config = TrainConfig.from_dict(settings)
        model = dense.requires_grad_(True)
        result = train(model, store, tokenizer, folder, config, resume=resume, progress=False)
    else:
        source = out / "spiking"
        if not (source / "config.json").is_file():
            convert(dense, tokenizer, None, make_plan(dense, **SPIKING), source)
            finish(source)
        original = {"teacher": args.model, "gguf_file": args.gguf_file}
        teacher = original if row.teacher == ORIGINAL else {"teacher": control_of(args)}
        ended = runs.finetune_attention(
            source, data=args.data, out=folder, part="everything", density=row.density,
            settings=settings, resume=resume, **teacher,
        )  # fmt: skip
        model, result = ended.model, ended.training
    if result.interrupted:
        raise SystemExit(130)
    return model, {
        "learning_rate": settings["learning_rate"],
        "validation_loss": result.final_validation["loss"],
        "tokens_seen": result.tokens_seen,
        "train_seconds": result.seconds,
    }


def control_of(args: argparse.Namespace) -> Path:
    """The trained control's folder on this machine."""
    name = args.name or Path(args.data).name
    done = at_best_rate(SWEEP.results(name), TRAINED)
    for result in done:
        run = SWEEP.folder(args, TRAINED, result["seed"], result["learning_rate"]) / "run"
        if (run / "config.json").is_file():
            return run
    raise SystemExit(f"this row's teacher is {TRAINED!r}, which has no folder here: run it first.")


def table(name: str, results: list[dict[str, Any]]) -> str:
    """One line per row: perplexity on each text, its change, the share of weights read."""
    setting, texts = results[0]["setting"], list(results[0]["losses"])
    (dense,) = (run for run in results if run["row"] == DENSE)
    controls = at_best_rate(results, TRAINED)[:1]
    commits = ", ".join(sorted({run["commit"] for run in results}))
    head = (
        f"{name}, {dense['parameters']:,} parameters, T = 8, every map and the head; trained for "
        f"{setting['steps']:,} steps of {setting['batch']} x {setting['context']} tokens; measured "
        f"on {setting['windows']} windows of {setting['window']} tokens of each text, changes "
        f"beside the original before any training and beside the control, {TRAINED!r}; commits "
        f"{commits}; torch {dense['torch']}, {dense['machine']}."
    )
    lines = []
    for row in ROWS:
        for run in at_best_rate(results, row)[:1]:
            cells = [row, f"{run['learning_rate']:g}" if run["learning_rate"] else "-"]
            for text in texts:
                cells.append(f"{changes(run, dense, text)['perplexity']:.2f}")
                cells.append("" if row == DENSE else change_of(run, dense, text))
                trained = ROWS[row].trained and row != TRAINED
                cells += [change_of(run, each, text) if trained else "" for each in controls]
            read = run["shares"].get(texts[0], {}).get("density")
            lines.append([*cells, "1" if read is None else f"{read:.3f}"])
    beside = ["to the original", *("to the control" for _ in controls)]
    columns = [column for text in texts for column in (f"{text}, perplexity", *beside)]
    text = f"{head}\n\n{markdown(['row', 'rate', *columns, 'weights read'], lines)}"
    labels = {name: name for name, row in ROWS.items() if row.trained}
    tuned = [run for run in results if run["row"] in labels]
    if speed := load_speed(SWEEP, name):
        text += f"\n{speed_table(speed, '')}"
    return f"{text}\n{search_table(tuned, labels, 'validation loss')}" if tuned else text


def change_of(run: dict[str, Any], other: dict[str, Any], text: str) -> str:
    """Change in perplexity beside another run on the same windows, with its standard error."""
    result = changes(run, other, text)
    return f"{result['change']:+.1%} ± {result['standard_error']:.1%}"


def measure_speed(args: argparse.Namespace) -> None:
    """Tokens per second of the trained models in the engine, in turns; kept in runs/."""
    from spikeformers.conversion import load_source
    from spikeformers.data import load_corpus, tokenize_corpus

    with_huge_pages()
    name = args.name or Path(args.data).name
    dense, tokenizer = load_source(args.model, args.gguf_file)
    models: dict[str, Callable[[], Any]] = {"no dead zones": lambda: spiking(dense)}
    for key, row in ROWS.items():
        for result in at_best_rate(SWEEP.results(name), key)[:1] if row.density else ():
            about = argparse.Namespace(name=name, data=args.data)
            run = SWEEP.folder(about, key, result["seed"], result["learning_rate"]) / "run"
            if (run / "config.json").is_file():
                models[key] = partial(trained_model, run)
            elif row.trained:
                print(f"{key}: no run folder {run} on this machine")
    with tempfile.TemporaryDirectory() as temporary:
        rows: list[dict[str, Any]] = []
        for key, opened in models.items():
            model = opened()
            for weights in ("int8", "int4"):
                system = packed(model, tokenizer, Path(temporary) / f"{len(rows)}.engine", weights)
                rows.append({"system": f"{key}, {weights}", "open": system})
            del model
        test = tokenize_corpus(load_corpus(args.data), tokenizer).split("test").tokens
        record = time_rows(rows, test, args)
    write_text(SWEEP.runs / name / "speed.json", json.dumps(record, indent=1) + "\n")


def trained_model(run: Path) -> Any:
    from spikeformers.models import load_model

    return load_model(run)[0]


def with_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="the dense original: a folder, or a known name")
    parser.add_argument("--gguf-file", default="")


def options_of_speed(parser: argparse.ArgumentParser) -> None:
    speed_options(parser)
    with_model(parser)


def options(parser: argparse.ArgumentParser) -> None:
    with_model(parser)
    parser.add_argument("--text", action="append", help="NAME=FILE or FOLDER; repeatable")
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--window", type=int, default=512, help="tokens of a window")


SEEDS = dict.fromkeys(ROWS, (0,))
FIRST_RATES = {name: RATES if row.trained else (0.0,) for name, row in ROWS.items()}
VERBS = {"speed": (options_of_speed, measure_speed)}
SWEEP = Sweep(__file__, "density", SEEDS, train_one, table, options, FIRST_RATES, verbs=VERBS)

if __name__ == "__main__":
    SWEEP.main(__doc__)
