"""From the options of `convert` to a converted model and its report."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikeformers.cli._output import say, tokenize
from spikeformers.errors import ConfigError, nearest
from spikeformers.values import misfit

if TYPE_CHECKING:
    from spikeformers.conversion import Plan, Rule

LONGEST = 512  # tokens of a window, unless asked for more


@dataclass(frozen=True)
class Asked:
    """The options, as given."""

    model: str
    gguf_file: str
    out: Path
    calibration: str
    text_field: str
    choices: dict[str, Any]
    rule: str
    percentile: float
    margin: float
    calibration_tokens: int
    context: int | None
    tokens: int
    allow_dense: bool
    resume: bool


def run_conversion(
    asked: Asked, show: Callable[[Plan], None], *, plan_only: bool
) -> dict[str, Any] | None:
    """Plan, convert, measure and report; the report, or None where the plan was all."""
    from spikeformers.conversion import Rule, refuse_taken
    from spikeformers.storage import check_folder, run_lock

    rule = Rule(asked.rule, asked.percentile, asked.margin)  # type: ignore[arg-type]
    check_choices(asked.choices)
    check_folder(asked.out)
    refuse_taken(asked.out, resume=asked.resume)
    if plan_only:
        return _carry_out(asked, rule, show, plan_only=True)
    with run_lock(asked.out):
        return _carry_out(asked, rule, show, plan_only=False)


def _carry_out(
    asked: Asked, rule: Rule, show: Callable[[Plan], None], *, plan_only: bool
) -> dict[str, Any] | None:
    from spikeformers.conversion import (
        calibration_windows,
        convert,
        finish,
        load_source,
        make_plan,
    )
    from spikeformers.data import load_corpus
    from spikeformers.evaluation import context_of
    from spikeformers.progress import LOG, Progress
    from spikeformers.reporting import report_conversion
    from spikeformers.studies import measure_conversion

    corpus = load_corpus(asked.calibration, text_field=asked.text_field)
    model, tokenizer = load_source(asked.model, asked.gguf_file)
    plan = make_plan(model, allow_dense=asked.allow_dense, **asked.choices)
    say(
        f"model     {asked.model}: {model.config.model_type}, {model.num_parameters():,} parameters"
    )
    show(plan)
    if plan_only:
        return None
    longest = int(model.config.max_position_embeddings)
    context = asked.context or min(context_of(model), LONGEST)
    if context > longest:
        raise ConfigError(f"context is {context}; this model takes at most {longest} tokens.")
    store = tokenize(corpus, tokenizer)
    windows = calibration_windows(store.split("train"), context, asked.calibration_tokens)
    say(f"text      {corpus.name}, sha256 {corpus.digest[:12]}: {windows.numel():,} tokens")
    with Progress(log=asked.out / LOG) as tell:
        found = convert(
            model, tokenizer, windows, plan, asked.out,
            rule=rule, resume=asked.resume, progress=tell,
        )  # fmt: skip
        measured = measure_conversion(
            found.model, model, tokenizer, store.split("validation"),
            context=context, tokens=asked.tokens, progress=tell,
        )  # fmt: skip
    calibration = {
        "text": corpus.name,
        "sha256": corpus.digest,
        "tokens": windows.numel(),
        "context": context,
        **asdict(rule),
    }
    summary = report_conversion(
        asked.out, plan, found.layers, measured, source=asked.model, calibration=calibration
    )
    finish(asked.out)
    return dict(json.loads(json.dumps(summary)))


def check_choices(choices: dict[str, Any]) -> None:
    """Raise ConfigError for a field that a conversion does not take, or of another type."""
    from dataclasses import fields

    from spikeformers.models import NeurTransformerConfig

    known = {
        *("steps", "ffn", "attention", "wta", "winners"),
        *("code", "attention_neuron", "ssa_norm", "schedule", "unrolled"),
    }
    defaults = {field.name: field.default for field in fields(NeurTransformerConfig)}  # type: ignore[arg-type]
    for key, value in choices.items():
        if key not in known:
            raise ConfigError(
                f"--set {key}: unknown key.{nearest(key, known)} Known: {', '.join(sorted(known))}."
            )
        if type(value) is not type(defaults[key]):
            raise ConfigError(misfit(key, value, type(defaults[key])))
