"""Distillation of a spiking student, or its dense twin, from a trained teacher (SpAD)."""

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
    model_request,
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

    from spikeformers.data import TokenStore


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
    """Train the preset ``student`` from ``teacher`` by SpAD, into the run folder ``out``.

    ``teacher`` is a causal model, a folder of this project or of Transformers, or a name on the
    hub; the student uses its tokenizer. ``gguf_file`` is a GGUF file there; ``teacher_dtype`` auto
    (as stored), fp32, bf16 or fp16; ``cache_teacher`` a folder for its outputs, or "auto".
    ``without`` leaves out terms of the loss: ea, saa, sfa, sta, hta. ``settings`` may also have
    fields of SpADConfig. All else as in `pretrain`.

    BiSpikCLM, https://arxiv.org/abs/2605.13859.
    """
    out, reporter = Path(out), Reporter(progress, on_message)
    named_teacher = {
        "teacher": str(teacher),
        "gguf_file": gguf_file,
        "teacher_dtype": teacher_dtype,
        "cache_teacher": str(cache_teacher),
    }
    named = Recipe(
        student,
        control,
        data={"source": str(data)} if data else {},
        distill={key: value for key, value in named_teacher.items() if value},
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
            f"{recipe.preset} predicts masked tokens; a student must predict the next one, as "
            "wd-spikingformer-tiny does."
        )
    teacher_keys = TEACHER | {
        key: str(recipe.distill[key]) for key in TEACHER if key in recipe.distill
    }
    if not teacher_keys["teacher"]:
        raise ConfigError(
            "no teacher was named. Give --teacher: a model folder or a name on the hub."
        )
    spad = SpADConfig.from_dict(recipe.spad)
    model, training = lengths(recipe)
    config = TrainConfig.from_dict(training)
    teacher, tokenizer = _teacher(teacher_keys, spad, config)
    data = data_keys() | {"tokenizer": ""} | recipe.data
    store = _text(data, tokenizer, reporter)
    special = {role: getattr(tokenizer, role) for role in SPECIAL_TOKENS}
    student: PreTrainedConfig = build_config(
        recipe.preset, teacher.config.vocab_size, special | model
    )
    if recipe.control:
        student = control_of(student)
    request = {**model_request(recipe), **data, DISTILL: teacher_keys}
    return _build(student, teacher, spad, tokenizer, store, config, request, teacher_keys)


def reopen(out: Path, changes: Recipe, reporter: Reporter | None = None) -> PreparedRun:
    """Prepare the run of ``out/run.json``, with the keys of ``changes`` on top.

    Raises ``UsageError`` if there is no run; ``train`` refuses changes that are not possible.
    """
    record = read_record(out)
    refuse_another_verb(out, record.request, DISTILL in record.request)
    request = record.checked_request(MODEL, TEXT)
    before = record.part(request[DISTILL], dict.fromkeys(TEACHER, str), DISTILL)
    refuse_another_model(out, request, changes)
    spad_keys = [field.name for field in fields(SpADConfig)]
    task = record.sections.get("task") or {}
    weights = {key: value for key, value in task.items() if key in spad_keys}
    record.build(SpADConfig.from_dict, weights, "task")
    spad = SpADConfig.from_dict(weights | changes.spad)
    config, student = record.train_config(changes.train), record.model_config()
    teacher_keys = before | {k: str(v) for k, v in changes.distill.items() if k in TEACHER}
    teacher, tokenizer = _teacher(teacher_keys, spad, config)
    source = {key: value for key, value in request.items() if key in data_keys()}
    store = _text(source | changes.data, tokenizer, reporter or Reporter())
    return _build(student, teacher, spad, tokenizer, store, config, request, teacher_keys)


def _teacher(
    teacher_keys: Mapping[str, str], spad: SpADConfig, config: TrainConfig
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    if config.threads:
        torch.set_num_threads(config.threads)
    return load_reference(
        teacher_keys["teacher"],
        gguf_file=teacher_keys["gguf_file"],
        dtype=teacher_keys["teacher_dtype"],
        attentions="saa" in spad.active,
    )


def _text(
    data: Mapping[str, Any], tokenizer: PreTrainedTokenizerFast, reporter: Reporter
) -> TokenStore:
    """The tokens; a tokenizer of another vocabulary is a ``ConfigError``."""
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
    return reporter.tokenize(corpus, tokenizer)


def _build(
    student: PreTrainedConfig,
    teacher: PreTrainedModel,
    spad: SpADConfig,
    tokenizer: PreTrainedTokenizerFast,
    store: TokenStore,
    config: TrainConfig,
    request: dict[str, Any],
    teacher_keys: Mapping[str, str],
) -> PreparedRun:
    if "saa" in spad.active:
        student._attn_implementation = "eager"  # also a dense student must return its maps
    model = initialise(student, config.seed)
    task = Distillation(model, teacher, spad, config.seed, teacher_keys["cache_teacher"])
    recorded = request[DISTILL]
    rows = {
        "distilled from": f"{recorded['teacher']} {recorded['gguf_file']}".strip(),
        "terms": ", ".join(f"{term} {weight:g}" for term, weight in spad.weights.items()),
    }
    run = prepare_text(tokenizer, store, model, config, request, task=task, rows=rows)
    run.description = [_described(task, recorded), *run.description]
    return run


def _described(task: Distillation, teacher_keys: Mapping[str, str]) -> str:
    """The teacher; the mapping of layers follows in the log of `train`."""
    teacher = task.teacher.model
    name = " ".join(part for part in (teacher_keys["teacher"], teacher_keys["gguf_file"]) if part)
    dtype = str(teacher.dtype).removeprefix("torch.")
    return (
        f"teacher   {name}: {teacher.config.model_type}, {teacher.num_parameters():,} parameters, "
        f"{dtype}"
    )
