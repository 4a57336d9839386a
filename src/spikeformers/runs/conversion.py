"""Convert a trained dense language model into a spiking one, measure both, and report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from spikeformers.conversion import (
    Plan,
    Rule,
    calibration_windows,
    finish,
    load_source,
    make_plan,
    refuse_taken,
)
from spikeformers.conversion import convert as convert_model
from spikeformers.conversion.dead_zones import check_density
from spikeformers.conversion.plan import with_defaults
from spikeformers.data import load_corpus
from spikeformers.errors import ConfigError, UsageError, nearest
from spikeformers.evaluation import context_of
from spikeformers.models import NeurTransformerConfig, NeurTransformerForCausalLM
from spikeformers.models.neurtransformer import neurtransformer_config
from spikeformers.packaged import locate
from spikeformers.progress import LOG, Listener, Progress
from spikeformers.reporting import report_conversion
from spikeformers.runs.recipe import Settings, setting_values
from spikeformers.runs.reporter import OnMessage, Reporter
from spikeformers.storage import check_folder, run_lock
from spikeformers.studies import measure_conversion
from spikeformers.values import fits, misfit

BUILTIN = "builtin"
LONGEST = 512  # tokens per window, unless more are requested
ENERGY_TOKENS = 2048  # whose events are counted, which takes four times as long as scoring them
CHOICES = (
    *("steps", "ffn", "attention", "wta", "winners", "weight_digits"),
    *("code", "attention_neuron", "ssa_norm", "schedule", "unrolled"),
    *("threshold", "spiking_maps", "token_reach", "power_of_two_units"),
)
"""Fields of NeurTransformerConfig that a conversion takes."""


@dataclass(frozen=True)
class ConvertOptions:
    """The model to convert, where to write it, and how to calibrate it."""

    model: str
    out: Path
    calibration: str
    text_field: str
    gguf_file: str
    choices: Mapping[str, Any]
    rule: Rule
    density: float | None
    calibration_tokens: int
    context: int | None
    tokens: int
    allow_dense: bool
    resume: bool


@dataclass(frozen=True)
class ConversionResult:
    """The plan and, if it was carried out, the spiking model and the content of report.json."""

    plan: Plan
    model: NeurTransformerForCausalLM | None = None
    report: dict[str, Any] | None = None


def convert(
    model: str | Path,
    *,
    out: str | Path,
    calibration: str | Path = "",
    settings: Settings | None = None,
    rule: Rule | None = None,
    density: float | None = None,
    calibration_tokens: int = 2048,
    context: int | None = None,
    tokens: int = 4096,
    text_field: str = "text",
    gguf_file: str = "",
    allow_dense: bool = False,
    plan_only: bool = False,
    resume: bool = False,
    progress: Listener | None = None,
    on_message: OnMessage | None = None,
) -> ConversionResult:
    """Convert the dense causal ``model`` into the folder ``out``, and report what that changed.

        spikeformers.runs.convert("runs/twin", out="runs/spiking", calibration="builtin",
                                  settings={"steps": 16, "attention": "kept"})

    ``model`` is a folder, a name on the hub (``gguf_file``: a GGUF file there) or a short name of
    `packaged.locate`. Thresholds are chosen by ``rule`` on ``calibration_tokens`` of the training
    text that ``calibration`` names, in windows of ``context`` tokens (as trained, at most 512);
    both models are then measured on ``tokens`` of its validation text. Thresholds per token need no
    calibration: without a text, both models are measured on the built-in one. ``density`` in (0, 1)
    is the target share of weights read per token, for thresholds per token. ``settings`` are fields
    of NeurTransformerConfig. ``allow_dense`` leaves modules without a conversion dense.
    ``plan_only`` stops after the plan and writes nothing. ``resume`` continues an interrupted
    conversion in ``out``.

    Raises ``UsageError`` for a folder that is in use or has nothing to resume, ``ConfigError``,
    ``DataError``, ``CheckpointError`` and ``StorageError``.
    """
    options = ConvertOptions(
        str(model), Path(out), str(calibration), text_field, gguf_file,
        setting_values(settings), rule or Rule(), density, calibration_tokens, context, tokens,
        allow_dense, resume,
    )  # fmt: skip
    reporter = Reporter(progress, on_message)
    check_choices(options.choices)
    neurtransformer_config(**with_defaults(options.choices))  # before any text or model is read
    if density is not None:
        check_density(density)
    if not options.calibration:
        _refuse_without_text(options)
    check_folder(options.out)
    refuse_taken(options.out, resume=resume)
    if plan_only:
        return _carry_out(options, reporter, plan_only=True)
    with run_lock(options.out):
        return _carry_out(options, reporter, plan_only=False)


def _carry_out(options: ConvertOptions, reporter: Reporter, *, plan_only: bool) -> ConversionResult:
    corpus = load_corpus(options.calibration or BUILTIN, text_field=options.text_field)
    if description := locate(options.model, options.gguf_file).description:
        reporter.say(f"source    {options.model} is {description}")
    model, tokenizer = load_source(options.model, options.gguf_file)
    plan = make_plan(model, allow_dense=options.allow_dense, **options.choices)
    count = f"{model.num_parameters():,} parameters"
    reporter.say(f"model     {options.model}: {model.config.model_type}, {count}")
    for line in plan_lines(plan):
        reporter.say(line)
    if plan_only:
        return ConversionResult(plan)
    longest = int(model.config.max_position_embeddings)
    context = options.context or min(context_of(model), LONGEST)
    if context > longest:
        raise ConfigError(f"context is {context}; this model takes at most {longest} tokens.")
    store = reporter.tokenize(corpus, tokenizer)
    windows = None
    if options.calibration:
        windows = calibration_windows(store.split("train"), context, options.calibration_tokens)
    calibrated = "measured on" if windows is None else f"{windows.numel():,} tokens"
    reporter.say(f"text      {corpus.name}, sha256 {corpus.digest[:12]}: {calibrated}")
    with Progress(show=False, log=options.out / LOG, listener=reporter) as tell:
        converted = convert_model(
            model, tokenizer, windows, plan, options.out,
            rule=options.rule, density=options.density, resume=options.resume, progress=tell,
        )  # fmt: skip
        measured = measure_conversion(
            converted.model, model, tokenizer, store.split("validation"),
            context=context, tokens=options.tokens, energy_tokens=ENERGY_TOKENS, progress=tell,
        )  # fmt: skip
    calibration = {
        "text": corpus.name,
        "sha256": corpus.digest,
        "tokens": 0 if windows is None else windows.numel(),
        "context": context,
        **asdict(options.rule),
        "target_density": options.density,
    }
    report = report_conversion(
        options.out, plan, converted.layers, measured, converted.dead_zones,
        source=options.model, calibration=calibration,
    )  # fmt: skip
    finish(options.out)
    return ConversionResult(plan, converted.model, json.loads(json.dumps(report)))


def _refuse_without_text(options: ConvertOptions) -> None:
    choices = options.choices
    per_token = choices.get("threshold") == "token" and choices.get("attention", "kept") == "kept"
    if not per_token or options.density is not None:
        raise UsageError(
            "this conversion is calibrated on text: name it with --calibration (builtin, a file, a "
            "folder, a data set). Only --threshold token with the softmax kept and without "
            "--density needs none."
        )


def plan_lines(plan: Plan) -> list[str]:
    """The plan as text; equal rows of several blocks share a line."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for row in plan.rows:
        groups.setdefault((row.was, row.becomes, row.method), []).append(row.module)
    lines = []
    for (was, becomes, method), modules in groups.items():
        where = modules[0] if len(modules) == 1 else f"{modules[0]} ... {modules[-1]}"
        change = f"{was} -> {becomes}" if becomes != was else was
        lines.append(f"{len(modules):>4} x {change}: {method}\n       {where}")
    return lines


def check_choices(choices: Mapping[str, Any]) -> None:
    """Raise ConfigError for a field that a conversion does not take, or a value of another type."""
    defaults = {field.name: field.default for field in fields(NeurTransformerConfig)}  # type: ignore[arg-type]
    for key, value in choices.items():
        if key not in CHOICES:
            raise ConfigError(
                f"--set {key}: unknown key.{nearest(key, CHOICES)} "
                f"Known: {', '.join(sorted(CHOICES))}."
            )
        default = defaults[key]
        if default is not None and not fits(value, type(default)):
            raise ConfigError(misfit(key, value, type(default)))
