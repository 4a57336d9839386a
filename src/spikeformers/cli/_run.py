"""From a recipe, or from an earlier run's ``run.json``, to what `train` takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikeformers.cli._output import say, tokenize
from spikeformers.cli._recipe import Recipe, data_keys
from spikeformers.errors import CheckpointError, ConfigError, UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

    from spikeformers.data import Corpus, TokenStore
    from spikeformers.training import TrainConfig

REQUEST = "request"  # key of run.json's data section that says how the data were asked for


@dataclass
class Run:
    """All that `train` takes, built."""

    corpus: Corpus
    tokenizer: PreTrainedTokenizerFast
    store: TokenStore
    model: PreTrainedModel
    config: TrainConfig
    request: dict[str, Any]


def prepare(recipe: Recipe) -> Run:
    """Load the text, make tokenizer and tokens, initialise the model. Raises ``UsageError``."""
    from spikeformers.models import PRESETS, build_config, control_of
    from spikeformers.training import TrainConfig

    recipe.check()
    model, train = dict(recipe.model), dict(recipe.train)
    # One length for training windows and positions, unless both were given.
    positions = "max_position_embeddings"
    if "context" in train:
        model.setdefault(positions, train["context"])
    train.setdefault("context", model.get(positions, PRESETS[recipe.preset][positions]))
    data = data_keys() | recipe.data
    corpus, tokenizer, store = read_data(data, masked=recipe.preset.startswith("we-"))
    roles = ("bos_token_id", "eos_token_id", "pad_token_id")
    ids = {role: getattr(tokenizer, role) for role in roles}
    spiking = build_config(recipe.preset, len(tokenizer), ids | model)
    config = TrainConfig.from_dict(train)
    request = {"preset": recipe.preset, "control": recipe.control, **data}
    return Run(
        corpus,
        tokenizer,
        store,
        initialise(control_of(spiking) if recipe.control else spiking, config.seed),
        config,
        request,
    )


def reopen(out: Path, changes: Recipe) -> Run:
    """Everything as ``out/run.json`` says, with the training keys of ``changes`` on top.

    Raises ``UsageError`` where there is no run, and ``ConfigError`` for what cannot change.
    """
    from transformers import AutoConfig

    from spikeformers.training import TrainConfig

    record = read_record(out)
    data = dict(record["data"].get(REQUEST) or {})
    if not data:
        raise UsageError(
            f"{out / 'run.json'} does not say which data were used: the run was not begun by "
            "`spikeformers pretrain`. Resume it with spikeformers.train(..., resume=True)."
        )
    other = bool(changes.preset) and changes.preset != data["preset"]
    if changes.model or other or (changes.control and not data["control"]):
        raise ConfigError(
            f"{out} was begun as {data['preset']}{' --control' if data['control'] else ''}; "
            "--resume cannot change the model. Begin in another --out."
        )
    source = {key: value for key, value in data.items() if key in data_keys()}
    config = TrainConfig.from_dict(record["config"] | changes.train)
    model = AutoConfig.for_model(**record["model"])
    masked = data["preset"].startswith("we-")
    # Another place of the same text is fine: `train` compares the digest of its content.
    corpus, tokenizer, store = read_data(source | changes.data, masked=masked)
    return Run(corpus, tokenizer, store, initialise(model, config.seed), config, data)


def read_data(
    data: Mapping[str, Any], *, masked: bool
) -> tuple[Corpus, PreTrainedTokenizerFast, TokenStore]:
    """Corpus, tokenizer and tokens for the keys of a recipe's data section."""
    from spikeformers.data import load_corpus, make_tokenizer

    options = {k: v for k, v in data.items() if k not in ("source", "tokenizer")}
    corpus = load_corpus(str(data["source"]), **options)
    tokenizer = make_tokenizer(str(data["tokenizer"]), corpus, masked=masked)
    return corpus, tokenizer, tokenize(corpus, tokenizer)


def initialise(config: PreTrainedConfig, seed: int) -> PreTrainedModel:
    """A fresh model whose weights depend on ``config`` and ``seed`` alone."""
    import torch

    from spikeformers.models import build_model

    torch.manual_seed(seed)
    return build_model(config)


def read_record(out: Path) -> dict[str, Any]:
    """The content of ``out/run.json``; UsageError where it is missing."""
    path = out / "run.json"
    if not path.is_file():
        raise UsageError(f"nothing to resume: {path} does not exist. Start without --resume.")
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not {"config", "model", "data"} <= record.keys():
            raise ValueError("config, model or data is missing")
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}. Begin in another --out.") from error
    return record


def refuse_taken(out: Path) -> None:
    """Raise ``UsageError`` for a folder that holds a run, before any text is read."""
    from spikeformers.training.run_folder import RUN_FILES

    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; name a folder.")
    if taken := [name for name in RUN_FILES if (out / name).exists()]:
        raise UsageError(
            f"{out} already holds a run ({taken[0]}). Use --resume to go on with it, or another "
            "--out."
        )


def describe(run: Run) -> None:
    """What is about to be trained, in four lines to standard error."""
    corpus, config, tokens = run.corpus, run.config, run.store.split("train").num_tokens
    say(f"text      {corpus.name}, sha256 {corpus.digest[:12]}; {corpus.split_by}")
    say(f"tokens    {tokens:,} to train on; tokenizer {run.request['tokenizer']}")
    say(f"model     {run.model.config.model_type}, {run.model.num_parameters():,} parameters")
    say(f"training  {config.total_steps:,} steps of {config.tokens_per_step:,} tokens")
