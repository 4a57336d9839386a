"""Pretraining of a language model, or its dense twin, from scratch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikeformers.data import load_corpus, make_tokenizer
from spikeformers.data.shards import is_store
from spikeformers.errors import ConfigError, UsageError
from spikeformers.models import build_config, control_of
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
from spikeformers.runs.recipe import Recipe, RecipeSource, Settings, data_keys, make_recipe
from spikeformers.runs.record import MODEL, TEXT, read_record, refuse_another_verb, verb_of
from spikeformers.runs.reporter import OnMessage, Reporter
from spikeformers.runs.tokenization import open_store
from spikeformers.training import TrainConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from spikeformers.data import Corpus, TokenStore


def pretrain(
    preset: str = "",
    *,
    out: str | Path,
    data: str | Path = "",
    tokenizer: str = "",
    recipe: RecipeSource | None = None,
    settings: Settings | None = None,
    control: bool = False,
    resume: bool = False,
    profile: bool = False,
    progress: Listener | None = None,
    on_message: OnMessage | None = None,
) -> RunResult:
    """Train a language model from scratch into the run folder ``out``, as ``pretrain`` does.

        spikeformers.pretrain("wd-spikingformer-tiny", data="builtin", out="runs/x",
                              settings={"steps": 500, "wta": "top_k"})

    ``data`` is "builtin", a text, JSONL or Parquet file, a folder, a data set on the hub, or a
    token store of `tokenize`, which has its own tokenizer; ``tokenizer`` "byte", "bpe:SIZE", a
    folder or a name on the hub. ``settings`` are keys of the recipe (the fields of TrainConfig and
    of the model's config, and of `load_corpus`), and override ``recipe``. ``control`` trains the
    dense twin instead. ``resume`` continues the run in
    ``out`` exactly, from its newest complete checkpoint; the other arguments are then optional.
    ``profile`` writes a trace of a few steps into ``out/profile``.
    Ctrl-C ends with a checkpoint, and the result is ``interrupted``.

    Raises ``UsageError``, ``ConfigError`` and ``DataError`` for a wrong request, before
    anything is written, and what `train` raises.
    """
    out, reporter = Path(out), Reporter(progress, on_message)
    sources = {"source": str(data), "tokenizer": tokenizer}
    named = Recipe(preset, control, data={key: value for key, value in sources.items() if value})
    resolved = make_recipe(recipe, named, settings)
    check_out(out, resume=resume)
    run = reopen(out, resolved, reporter) if resume else prepare(resolved, reporter)
    return carry_out(run, out, reporter, resume=resume, profile=profile)


def prepare(recipe: Recipe, reporter: Reporter) -> PreparedRun:
    """Load the text, make tokenizer and tokens, initialise the model. Raises ``UsageError``."""
    recipe.check()
    if recipe.distill:
        raise ConfigError(
            f"{next(iter(recipe.distill))} is a key of distillation: use spikeformers distill."
        )
    model, training = lengths(recipe)
    masked = is_masked_preset(recipe.preset)
    data, tokenizer, store = _open_data(recipe.data, data_keys(), reporter, masked=masked)
    special = {role: getattr(tokenizer, role) for role in SPECIAL_TOKENS}
    spiking = build_config(recipe.preset, len(tokenizer), special | model)
    config = TrainConfig.from_dict(training)
    new_model = initialise(control_of(spiking) if recipe.control else spiking, config.seed)
    request = {**model_request(recipe), **data}
    return prepare_text(tokenizer, store, new_model, config, request)


def reopen(out: Path, changes: Recipe, reporter: Reporter | None = None) -> PreparedRun:
    """Prepare the run of ``out/run.json``, with the training keys of ``changes`` on top.

    Raises ``UsageError`` if there is no run, and ``ConfigError`` for changes that are not possible.
    """
    record = read_record(out)
    if not record.request:
        raise UsageError(
            f"{record.path} does not say which data were used: the run was not started by "
            "`spikeformers pretrain`. Resume it with spikeformers.train(..., resume=True)."
        )
    own = verb_of(record.request) == "pretrain" and not changes.distill
    refuse_another_verb(out, record.request, own)
    request = record.checked_request(MODEL, TEXT)
    refuse_another_model(out, request, changes)
    source = {key: value for key, value in request.items() if key in data_keys()}
    config, model = record.train_config(changes.train), record.model_config()
    masked = is_masked_preset(request["preset"])
    # The same text may be at another path: `train` compares the digest of its content.
    _, tokenizer, store = _open_data(
        source | changes.data, {}, reporter or Reporter(), masked=masked
    )
    new_model = initialise(model, config.seed)
    return prepare_text(tokenizer, store, new_model, config, request)


def _open_data(
    given: Mapping[str, Any], defaults: Mapping[str, Any], reporter: Reporter, *, masked: bool
) -> tuple[dict[str, Any], PreTrainedTokenizerFast, TokenStore]:
    """The keys of the data section, tokenizer and tokens, of a token store or of a text.

    The first process of each machine compares the digests of a store's files, the others sizes.
    """
    source = Path(str(given["source"])).expanduser()
    if is_store(source):
        reporter.stage("checking the token store")
        first = os.environ.get("LOCAL_RANK", "0") == "0"
        return open_store(source, given, masked=masked, content=first)
    data = {**defaults, **given}
    _, tokenizer, store = read_data(data, reporter, masked=masked)
    return data, tokenizer, store


def read_data(
    data: Mapping[str, Any], reporter: Reporter, *, masked: bool
) -> tuple[Corpus, PreTrainedTokenizerFast, TokenStore]:
    """Corpus, tokenizer and tokens for the keys of a recipe's data section."""
    options = {k: v for k, v in data.items() if k not in ("source", "tokenizer")}
    reporter.stage("looking at the text")
    corpus = load_corpus(str(data["source"]), **options)
    reporter.stage("making the tokenizer")
    tokenizer = make_tokenizer(str(data["tokenizer"]), corpus, masked=masked)
    return corpus, tokenizer, reporter.tokenize(corpus, tokenizer)
