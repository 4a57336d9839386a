"""From a recipe, or from an earlier run's ``run.json``, to a distillation that `train` takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikeformers.cli._output import say, tokenize
from spikeformers.cli._recipe import TEACHER, Recipe, data_keys
from spikeformers.cli._resumed import DISTILL, MODEL, TEXT, read_record, refuse_another_verb
from spikeformers.cli._run import Run, initialise, refuse_another_model
from spikeformers.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

    from spikeformers.data import Corpus, TokenStore
    from spikeformers.training import TrainConfig
    from spikeformers.training.distillation import Distillation, SpADConfig


def prepare(recipe: Recipe) -> tuple[Run, Distillation]:
    """Load teacher and text, initialise student and projections. Raises ``UsageError``."""
    from spikeformers.models import PRESETS, build_config, control_of
    from spikeformers.models.registry import is_masked_preset
    from spikeformers.training import TrainConfig
    from spikeformers.training.distillation import SpADConfig

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
    model, train = dict(recipe.model), dict(recipe.train)
    positions = "max_position_embeddings"
    if "context" in train:
        model.setdefault(positions, train["context"])
    train.setdefault("context", model.get(positions, PRESETS[recipe.preset][positions]))
    config = TrainConfig.from_dict(train)
    teacher, tokenizer = _teacher(who, spad, config)
    data = data_keys() | {"tokenizer": ""} | recipe.data
    corpus, store = _text(data, tokenizer)
    roles = ("bos_token_id", "eos_token_id", "pad_token_id")
    ids = {role: getattr(tokenizer, role) for role in roles}
    student: PreTrainedConfig = build_config(recipe.preset, teacher.config.vocab_size, ids | model)
    if recipe.control:
        student = control_of(student)
    request = {"preset": recipe.preset, "control": recipe.control, **data, DISTILL: who}
    cache = who["cache_teacher"]
    return _build(student, teacher, spad, corpus, tokenizer, store, config, request, cache)


def reopen(out: Path, changes: Recipe) -> tuple[Run, Distillation]:
    """Everything as ``out/run.json`` says, with the keys of ``changes`` on top.

    Raises ``UsageError`` where there is no run; ``train`` refuses what cannot change.
    """
    from spikeformers.training.distillation import SpADConfig

    record = read_record(out)
    refuse_another_verb(out, record.request, DISTILL in record.request)
    request = record.asked(MODEL, TEXT)
    asked = record.part(request[DISTILL], dict.fromkeys(TEACHER, str), DISTILL)
    refuse_another_model(out, request, changes)
    known = [field.name for field in fields(SpADConfig)]
    task = record.sections.get("task") or {}
    before = {key: value for key, value in task.items() if key in known}
    record.made(SpADConfig.from_dict, before, "task")
    spad = SpADConfig.from_dict(before | changes.spad)
    config, student = record.train(changes.train), record.model()
    who = asked | {k: str(v) for k, v in changes.distill.items() if k in TEACHER}
    teacher, tokenizer = _teacher(who, spad, config)
    source = {key: value for key, value in request.items() if key in data_keys()}
    corpus, store = _text(source | changes.data, tokenizer)
    cache = who["cache_teacher"]
    return _build(student, teacher, spad, corpus, tokenizer, store, config, request, cache)


def _teacher(
    who: Mapping[str, str], spad: SpADConfig, config: TrainConfig
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    import torch

    from spikeformers.models import load_reference

    if config.threads:
        torch.set_num_threads(config.threads)
    return load_reference(
        who["teacher"],
        gguf_file=who["gguf_file"],
        dtype=who["teacher_dtype"],
        attentions="saa" in spad.active,
    )


def _text(data: Mapping[str, Any], tokenizer: PreTrainedTokenizerFast) -> tuple[Corpus, TokenStore]:
    """Corpus and tokens; a tokenizer of another vocabulary is a ``ConfigError``."""
    from spikeformers.data import load_corpus, make_tokenizer

    options = {k: v for k, v in data.items() if k not in ("source", "tokenizer")}
    corpus = load_corpus(str(data["source"]), **options)
    if asked := str(data["tokenizer"] or ""):
        other = make_tokenizer(asked, corpus)
        if other.get_vocab() != tokenizer.get_vocab():
            raise ConfigError(
                f"tokenizer {asked!r} has {len(other):,} tokens, which are not the teacher's "
                f"{len(tokenizer):,}; a student learns the teacher's probabilities token by token. "
                "Leave the tokenizer out: the teacher's is used."
            )
    return corpus, tokenize(corpus, tokenizer)


def _build(
    student: PreTrainedConfig,
    teacher: PreTrainedModel,
    spad: SpADConfig,
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerFast,
    store: TokenStore,
    config: TrainConfig,
    request: dict[str, Any],
    cache_teacher: str,
) -> tuple[Run, Distillation]:
    from spikeformers.training.distillation import Distillation

    if "saa" in spad.active:
        student._attn_implementation = "eager"  # a dense student, too, must show its maps
    model = initialise(student, config.seed)
    task = Distillation(model, teacher, spad, config.seed, cache_teacher)
    return Run(corpus, tokenizer, store, model, config, request), task


def describe_teacher(task: Distillation, request: Mapping[str, Any]) -> None:
    """Who teaches, to standard error; the mapping follows in the log of `train`."""
    who, teacher = request[DISTILL], task.teacher.model
    name = " ".join(part for part in (who["teacher"], who["gguf_file"]) if part)
    kind = str(teacher.dtype).removeprefix("torch.")
    say(
        f"teacher   {name}: {teacher.config.model_type}, {teacher.num_parameters():,} parameters, "
        f"{kind}"
    )
