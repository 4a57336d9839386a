"""The demo: a tiny spiking model and its dense twin, trained on the same batches, and a report.

OUT/demo.json      the settings; OUT/spiking, OUT/control   run folders and models
OUT/spiking.engine the spiking model for the engine, if its kernels are built
OUT/summary.json   OUT/report.html   OUT/pictures/          once both are measured
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from spikeformers import kernels
from spikeformers.data.corpora import refuse_store
from spikeformers.engine import Engine, load, write
from spikeformers.errors import EngineUnavailable, UsageError
from spikeformers.export import pack
from spikeformers.foreign import check_object, foreign, read_json
from spikeformers.generation import generate_text
from spikeformers.models import load_model
from spikeformers.models.registry import is_masked_preset
from spikeformers.progress import LOG, Listener, Progress
from spikeformers.reporting import pair_rows, report_pair
from spikeformers.reporting.engine_section import engine_section
from spikeformers.runs.prepared import carry_out
from spikeformers.runs.pretraining import prepare, read_data
from spikeformers.runs.recipe import Recipe
from spikeformers.runs.reporter import OnMessage, Reporter
from spikeformers.storage import check_folder, run_lock, write_text
from spikeformers.studies import Trained, measure_pair

# What the demo trains, chosen so that it takes about five minutes on two cores.
DEMO_PRESET = "wd-spikingformer-tiny"
DEMO_TOKENIZER = "bpe:2048"
DEMO_CONTEXT = 128
DEMO_BATCH = 8
DEMO_STEPS = 400  # of each model, at DEMO_MINUTES
DEMO_MINUTES = 5.0
DEMO_TRAIN: dict[str, Any] = {"learning_rate": 5e-3, "eval_batches": 8}
DEMO_PROMPT = "Return the"
DEMO_SENTENCE = "Return a list of the items, sorted in the order in which they were added."

PARTS = ("spiking", "control")
ENGINE = "spiking.engine"
MADE = (*PARTS, ENGINE, "pictures", LOG, "summary.json", "report.html", "demo.json")


@dataclass(frozen=True)
class DemoSettings:
    """All settings on which a demo's results depend."""

    seed: int = 0
    steps: int = DEMO_STEPS
    preset: str = DEMO_PRESET
    tokenizer: str = DEMO_TOKENIZER
    source: str = "builtin"
    context: int = DEMO_CONTEXT
    batch_size: int = DEMO_BATCH
    model: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=lambda: dict(DEMO_TRAIN))
    prompt: str = DEMO_PROMPT
    sentence: str = DEMO_SENTENCE
    new_tokens: int = 80


def make_settings(*, seed: int, minutes: float) -> DemoSettings:
    """The settings of a demo; the number of steps is proportional to ``minutes`` on any machine."""
    return DemoSettings(seed=seed, steps=max(1, round(DEMO_STEPS * minutes / DEMO_MINUTES)))


def demo(
    out: str | Path = "runs/demo",
    *,
    minutes: float = DEMO_MINUTES,
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    progress: Listener | None = None,
    on_message: OnMessage | None = None,
    on_start: Callable[[], None] = lambda: None,
) -> dict[str, Any] | None:
    """Train a tiny spiking model and its dense twin, and report on both, in ``out``.

    It takes about ``minutes`` on two cores; they set the number of steps, so that results do not
    depend on the machine's speed. ``overwrite`` first removes an earlier demo from ``out``;
    ``resume`` never starts a new one. ``on_start`` is called when ``out`` is accepted, before
    anything is trained. Returns the content of summary.json, or None if Ctrl-C interrupted it.
    Raises what `run_demo` raises.
    """
    out = Path(out)
    if resume and overwrite:
        raise UsageError("--resume and --overwrite exclude each other.")
    if resume and not (out / "demo.json").is_file():
        raise UsageError(f"nothing to resume: {out} contains no demo.")
    settings = make_settings(seed=seed, minutes=minutes)
    reporter = Reporter(progress, on_message)
    return run_demo(out, settings, reporter, overwrite=overwrite, on_start=on_start)


def run_demo(
    out: Path,
    settings: DemoSettings,
    reporter: Reporter,
    *,
    overwrite: bool = False,
    on_start: Callable[[], None] = lambda: None,
) -> dict[str, Any] | None:
    """Train what is not trained yet, measure and report; returns the summary; None if interrupted.

    The summary of a complete demo is returned without running it again. Raises ``UsageError`` for
    a folder with other content, or a demo started with other settings.
    """
    check_folder(out)
    refuse_store(settings.source)
    with run_lock(out):
        finished = _enter(out, settings, reporter, overwrite)
        if finished is not None:
            return finished
        on_start()
        for part in PARTS:
            if not _train(out, part, settings, reporter):
                return None
        return _report(out, settings, reporter)


def _enter(
    out: Path, settings: DemoSettings, reporter: Reporter, overwrite: bool
) -> dict[str, Any] | None:
    marker, summary = out / "demo.json", out / "summary.json"
    if marker.is_file() and overwrite:
        for name in MADE:
            path = out / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    if not marker.is_file():
        if existing := [name for name in MADE if (out / name).exists()]:
            raise UsageError(
                f"{out} contains a {existing[0]} that no demo wrote. Choose another --out."
            )
        write_text(marker, json.dumps(asdict(settings), indent=2) + "\n")
        return None
    before = read_json(marker, advice="Use --overwrite, or another --out.")
    if before != json.loads(json.dumps(asdict(settings))):
        changed = "; ".join(
            f"{key} was {before.get(key)!r}, now {value!r}"
            for key, value in asdict(settings).items()
            if before.get(key) != value
        )
        raise UsageError(
            f"{out} contains a demo with other settings ({changed}). Use --overwrite, or another "
            "--out."
        )
    if summary.is_file():
        reporter.say(f"{out} contains this demo already; --overwrite trains it again.")
        return _read_summary(summary)
    reporter.say(f"Continuing the demo in {out}.")
    return None


def _read_summary(path: Path) -> dict[str, Any]:
    advice = "Use --overwrite to run it again."
    summary = read_json(path, advice=advice, needed={"prompt": str, "corpus": dict})
    check_object(
        summary["corpus"], {"name": str, "sha256": str}, f"corpus in {path}", advice=advice
    )
    for part in PARTS:
        check_object(summary.get(part), {"sample": str}, f"{part} in {path}", advice=advice)
    needed = {"density_by_layer": dict[str, float]}
    check_object(summary["spiking"], needed, f"spiking in {path}", advice=advice)
    with foreign(f"{path} cannot be used", advice=advice):
        pair_rows(summary)
    return summary


def _train(out: Path, part: str, settings: DemoSettings, reporter: Reporter) -> bool:
    """Train one of the two models unless it exists; returns False if interrupted."""
    folder = out / part
    if (folder / "config.json").is_file():
        return True
    number, title = PARTS.index(part) + 1, {"spiking": "spiking model", "control": "dense twin"}
    reporter.say(f"\n{number} of {len(PARTS)}: the {title[part]}")
    run = prepare(recipe_of(settings, control=part == "control"), reporter)
    started = (folder / "run.json").is_file()
    result = carry_out(run, folder, reporter, resume=started, name=f"demo-{part}")
    return not result.interrupted


def recipe_of(settings: DemoSettings, *, control: bool) -> Recipe:
    """The recipe of one of the two models; they differ in ``control`` only."""
    interval = max(1, settings.steps // 8)
    train = {
        "steps": settings.steps,
        "context": settings.context,
        "batch_size": settings.batch_size,
        "seed": settings.seed,
        "eval_every": interval,
        "save_every": interval,
        **settings.train,
    }
    data = {"source": settings.source, "tokenizer": settings.tokenizer}
    return Recipe(settings.preset, control, dict(settings.model), data, train)


def _report(out: Path, settings: DemoSettings, reporter: Reporter) -> dict[str, Any]:
    reporter.say("\nMeasuring both")
    data = {"source": settings.source, "tokenizer": settings.tokenizer}
    corpus, _, store = read_data(data, reporter, masked=is_masked_preset(settings.preset))
    models = {part: _trained(out / part, settings) for part in PARTS}
    with Progress(show=False, log=out / LOG, listener=reporter) as progress:
        progress("packing the engine's file", 0, None)
        engine, reason = _engine(out / ENGINE, models["spiking"])
        study = measure_pair(
            models["spiking"],
            models["control"],
            store,
            corpus=corpus,
            context=settings.context,
            seed=settings.seed,
            prompt=settings.prompt,
            sentence=settings.sentence,
            settings=asdict(settings),
            engine=engine,
            no_engine=reason,
            progress=progress,
        )
        file = None if engine is None else out / ENGINE
        section = engine_section([out / "spiking"], file=file, prompt=settings.prompt)
        return report_pair(out, study, progress, section)


def _trained(folder: Path, settings: DemoSettings) -> Trained:
    """A model of the demo, and a sample of its text."""
    model, tokenizer = load_model(folder)
    sample = generate_text(
        model,
        settings.prompt,
        tokenizer=tokenizer,
        max_new_tokens=min(settings.new_tokens, settings.context // 2),
        seed=settings.seed,
    )
    return Trained(folder, model, tokenizer, sample.text)


def _engine(file: Path, spiking: Trained) -> tuple[Engine | None, str]:
    """Write the spiking model to an engine file and open it; or None, and the reason."""
    try:
        kernels.choose()
        write(pack(spiking.model, spiking.tokenizer, "int8"), file)
        return load(file, threads=torch.get_num_threads()), ""
    except EngineUnavailable as error:
        return None, str(error)
