"""Distillation: a spiking student, or its dense twin, from a trained teacher (SpAD)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from spikeformers.data import load_corpus, make_tokenizer
from spikeformers.errors import ConfigError
from spikeformers.models import build_config, control_of, load_reference
from spikeformers.models.registry import is_masked_preset
from spikeformers.progress import Listener
from spikeformers.runs.prepared import (
    SPECIAL_TOKENS,
    PreparedRun,
    RunResult,
    carry_out,
    check_out,
    initialise,
    lengths,
    prepare_text,
    refuse_another_model,
)
from spikeformers.runs.recipe import (
    TEACHER,
    Recipe,
    RecipeSource,
    Settings,
    data_keys,
    make_recipe,
)
from spikeformers.runs.record import DISTILL, MODEL, TEXT, read_record, refuse_another_verb
from spikeformers.runs.reporter import OnMessage, Reporter
from spikeformers.training import TrainConfig
from spikeformers.training.distillation import SpADConfig
from spikeformers.training.distillation import without as weights_without
from spikeformers.training.distillation.objective import Distillation

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

    from spikeformers.data import Corpus, TokenStore


def distill(
    student: str = "",
    teacher: str | Path = "",
    *,
    out: str | Path,
    data: str | Path = "",
    gguf_file: str = "",
    teacher_dtype: str = "",
    cache_teacher: str | Path = "",
    without: Sequence[str] = (),
    recipe: RecipeSource | None = None,
    settings: Settings | None = None,
    control: bool = False,
    resume: bool = False,
    progress: Listener | None = None,
    on_message: OnMessage | None = None,
) -> RunResult:
    """Distil the preset ``student`` from ``teacher`` into the run folder ``out``, by SpAD.

    ``teacher`` is a causal model: a folder of this project or of Transformers, or a name of the
    hub, whose tokenizer the student takes; ``gguf_file`` a GGUF file there; ``teacher_dtype`` auto
    (the weights' own), fp32, bf16 or fp16; ``cache_teacher`` a folder that keeps its outputs, or
    "auto". ``without`` leaves out terms of the loss: ea, saa, sfa, sta, hta. ``settings`` may name
    the fields of SpADConfig, too. All else as in `pretrain`.

    BiSpikCLM, https://arxiv.org/abs/2605.13859.
    """
    out, reporter = Path(out), Reporter(progress, on_message)
    who = {
        "teacher": str(teacher),
        "gguf_file": gguf_file,
        "teacher_dtype": teacher_dtype,
        "cache_teacher": str(cache_teacher),
    }
    named = Recipe(
        student,
        control,
        data={"source": str(data)} if data else {},
        distill={key: value for key, value in who.items() if value},
    )
    resolved = make_recipe(recipe, named, settings)
    resolved = resolved.merge(Recipe(distill=dict(weights_without(list(without)))))
    check_out(out, resume=resume)
    run = reopen(out, resolved, reporter) if resume else prepare(resolved, reporter)
    return carry_out(run, out, reporter, resume=resume)


def prepare(recipe: Recipe, reporter: Reporter) -> PreparedRun:
    """Load teacher and text, initialise student and projections. Raises ``UsageError``."""
    recipe.check()
    if is_masked_preset(recipe.preset):
        raise ConfigError(
            f"{recipe.preset} predicts masked tokens; a student of distillation predicts the next "
            "one, as wd-spikingformer-tiny does."
        )
    who = TEACHER | {key: str(recipe.distill[key]) for key in TEACHER if key in recipe.distill}
    if not who["teacher"]:
        raise ConfigError("no teacher was named. Give --teacher: a model folder or a hub name.")
    spad = SpADConfig.from_dict(recipe.spad)
    model, training = lengths(recipe)
    config = TrainConfig.from_dict(training)
    teacher, tokenizer = _teacher(who, spad, config)
    data = data_keys() | {"tokenizer": ""} | recipe.data
    corpus, store = _text(data, tokenizer, reporter)
    special = {role: getattr(tokenizer, role) for role in SPECIAL_TOKENS}
    student: PreTrainedConfig = build_config(
        recipe.preset, teacher.config.vocab_size, special | model
    )
    if recipe.control:
        student = control_of(student)
    request = {"preset": recipe.preset, "control": recipe.control, **data, DISTILL: who}
    return _build(student, teacher, spad, corpus, tokenizer, store, config, request, who)


def reopen(out: Path, changes: Recipe, reporter: Reporter | None = None) -> PreparedRun:
    """Everything as ``out/run.json`` says, with the keys of ``changes`` on top.

    Raises ``UsageError`` where there is no run; ``train`` refuses what cannot change.
    """
    record = read_record(out)
    refuse_another_verb(out, record.request, DISTILL in record.request)
    request = record.checked_request(MODEL, TEXT)
    before = record.part(request[DISTILL], dict.fromkeys(TEACHER, str), DISTILL)
    refuse_another_model(out, request, changes)
    of_spad = [field.name for field in fields(SpADConfig)]
    task = record.sections.get("task") or {}
    weights = {key: value for key, value in task.items() if key in of_spad}
    record.build(SpADConfig.from_dict, weights, "task")
    spad = SpADConfig.from_dict(weights | changes.spad)
    config, student = record.train_config(changes.train), record.model_config()
    who = before | {k: str(v) for k, v in changes.distill.items() if k in TEACHER}
    teacher, tokenizer = _teacher(who, spad, config)
    source = {key: value for key, value in request.items() if key in data_keys()}
    corpus, store = _text(source | changes.data, tokenizer, reporter or Reporter())
    return _build(student, teacher, spad, corpus, tokenizer, store, config, request, who)


def _teacher(
    who: Mapping[str, str], spad: SpADConfig, config: TrainConfig
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    if config.threads:
        torch.set_num_threads(config.threads)
    return load_reference(
        who["teacher"],
        gguf_file=who["gguf_file"],
        dtype=who["teacher_dtype"],
        attentions="saa" in spad.active,
    )


def _text(
    data: Mapping[str, Any], tokenizer: PreTrainedTokenizerFast, reporter: Reporter
) -> tuple[Corpus, TokenStore]:
    """Corpus and tokens; a tokenizer of another vocabulary is a ``ConfigError``."""
    options = {k: v for k, v in data.items() if k not in ("source", "tokenizer")}
    corpus = load_corpus(str(data["source"]), **options)
    if name := str(data["tokenizer"] or ""):
        other = make_tokenizer(name, corpus)
        if other.get_vocab() != tokenizer.get_vocab():
            raise ConfigError(
                f"tokenizer {name!r} has {len(other):,} tokens, which are not the teacher's "
                f"{len(tokenizer):,}; a student learns the teacher's probabilities token by token. "
                "Leave the tokenizer out: the teacher's is used."
            )
    return corpus, reporter.tokenize(corpus, tokenizer)


def _build(
    student: PreTrainedConfig,
    teacher: PreTrainedModel,
    spad: SpADConfig,
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerFast,
    store: TokenStore,
    config: TrainConfig,
    request: dict[str, Any],
    who: Mapping[str, str],
) -> PreparedRun:
    if "saa" in spad.active:
        student._attn_implementation = "eager"  # a dense student, too, must show its maps
    model = initialise(student, config.seed)
    task = Distillation(model, teacher, spad, config.seed, who["cache_teacher"])
    begun = request[DISTILL]
    rows = {
        "distilled from": f"{begun['teacher']} {begun['gguf_file']}".strip(),
        "terms": ", ".join(f"{term} {weight:g}" for term, weight in spad.weights.items()),
    }
    run = prepare_text(corpus, tokenizer, store, model, config, request, task=task, rows=rows)
    run.description = [_described(task, begun), *run.description]
    return run


def _described(task: Distillation, who: Mapping[str, str]) -> str:
    """Who teaches; the mapping of layers follows in the log of `train`."""
    teacher = task.teacher.model
    name = " ".join(part for part in (who["teacher"], who["gguf_file"]) if part)
    dtype = str(teacher.dtype).removeprefix("torch.")
    return (
        f"teacher   {name}: {teacher.config.model_type}, {teacher.num_parameters():,} parameters, "
        f"{dtype}"
    )
