"""From a recipe, or from an earlier run's ``run.json``, to what `train` takes."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from spikeformers.cli._output import (
    is_main_process,
    make_table,
    print_json,
    print_table,
    say,
    tokenize,
)
from spikeformers.cli._recipe import Recipe, data_keys
from spikeformers.cli._resumed import (
    MODEL,
    REQUEST,
    TEXT,
    read_record,
    refuse_another_verb,
    verb_of,
)
from spikeformers.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

    from spikeformers.data import Corpus, TokenStore
    from spikeformers.training import TrainConfig, TrainResult
    from spikeformers.training.task import Task


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
    from spikeformers.models.registry import is_masked_preset
    from spikeformers.training import TrainConfig

    recipe.check()
    if recipe.distill:
        raise ConfigError(
            f"{next(iter(recipe.distill))} is a key of distillation: use spikeformers distill."
        )
    model, train = dict(recipe.model), dict(recipe.train)
    # One length for training windows and positions, unless both were given.
    positions = "max_position_embeddings"
    if "context" in train:
        model.setdefault(positions, train["context"])
    train.setdefault("context", model.get(positions, PRESETS[recipe.preset][positions]))
    data = data_keys() | recipe.data
    corpus, tokenizer, store = read_data(data, masked=is_masked_preset(recipe.preset))
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
    from spikeformers.models.registry import is_masked_preset

    record = read_record(out)
    if not record.request:
        raise UsageError(
            f"{record.path} does not say which data were used: the run was not begun by "
            "`spikeformers pretrain`. Resume it with spikeformers.train(..., resume=True)."
        )
    own = verb_of(record.request) == "pretrain" and not changes.distill
    refuse_another_verb(out, record.request, own)
    data = record.asked(MODEL, TEXT)
    refuse_another_model(out, data, changes)
    source = {key: value for key, value in data.items() if key in data_keys()}
    config, model = record.train(changes.train), record.model()
    masked = is_masked_preset(data["preset"])
    # Another place of the same text is fine: `train` compares the digest of its content.
    corpus, tokenizer, store = read_data(source | changes.data, masked=masked)
    return Run(corpus, tokenizer, store, initialise(model, config.seed), config, data)


def refuse_another_model(out: Path, request: Mapping[str, Any], changes: Recipe) -> None:
    """Raise ``ConfigError`` where a resumed run is asked to be of another model."""
    other = bool(changes.preset) and changes.preset != request["preset"]
    if changes.model or other or (changes.control and not request["control"]):
        raise ConfigError(
            f"{out} was begun as {request['preset']}{' --control' if request['control'] else ''}; "
            "--resume cannot change the model. Begin in another --out."
        )


def read_data(
    data: Mapping[str, Any], *, masked: bool
) -> tuple[Corpus, PreTrainedTokenizerFast, TokenStore]:
    """Corpus, tokenizer and tokens for the keys of a recipe's data section."""
    from spikeformers.data import load_corpus, make_tokenizer
    from spikeformers.progress import Progress

    options = {k: v for k, v in data.items() if k not in ("source", "tokenizer")}
    with Progress() as progress:
        progress.stage("looking at the text")
        corpus = load_corpus(str(data["source"]), **options)
        progress.stage("making the tokenizer")
        tokenizer = make_tokenizer(str(data["tokenizer"]), corpus, masked=masked)
    return corpus, tokenizer, tokenize(corpus, tokenizer)


def initialise(config: PreTrainedConfig, seed: int) -> PreTrainedModel:
    """A fresh model whose weights depend on ``config`` and ``seed`` alone."""
    import torch

    from spikeformers.models import build_model

    torch.manual_seed(seed)
    return build_model(config)


def check_out(out: Path, *, resume: bool) -> None:
    """Refuse a run folder that `train` would refuse, before any text or model is read.

    It holds a run (unless it is resumed), it cannot be written, or another process writes it.
    """
    from spikeformers.storage import check_folder, check_unlocked

    if is_main_process():  # of torchrun's, the first holds the folder while others come here
        check_folder(out)
        check_unlocked(out)
    if not resume:
        refuse_taken(out)


def refuse_taken(out: Path) -> None:
    """Raise ``UsageError`` for a folder that holds a run."""
    from spikeformers.training.run_folder import RUN_FILES

    if taken := [name for name in RUN_FILES if (out / name).exists()]:
        raise UsageError(
            f"{out} already holds a run ({taken[0]}). Use --resume to continue it, or another "
            "--out."
        )


def describe(run: Run) -> None:
    """What is about to be trained, in four lines to standard error."""
    corpus, config, tokens = run.corpus, run.config, run.store.split("train").num_tokens
    say(f"text      {corpus.name}, sha256 {corpus.digest[:12]}; {corpus.split_by}")
    named = run.request.get("tokenizer") or "the teacher's"
    say(f"tokens    {tokens:,} to train on; tokenizer {named}")
    say(f"model     {run.model.config.model_type}, {run.model.num_parameters():,} parameters")
    after = max(0, config.total_steps - config.schedule_span)
    late = f"; the last {after:,} at the schedule's last learning rate" if after else ""
    say(f"training  {config.total_steps:,} steps of {config.tokens_per_step:,} tokens{late}")


def carry_out(
    run: Run,
    out: Path,
    *,
    resume: bool,
    as_json: bool,
    task: Task | None = None,
    card: Mapping[str, str] | None = None,
) -> None:
    """Train, then print how it ended; exit code 130 when it was interrupted.

    ``card`` are more rows of the model card.
    """
    from spikeformers.reporting import training_card
    from spikeformers.training import train

    run.store.manifest[REQUEST] = run.request
    if is_main_process():
        describe(run)
    result = train(
        run.model,
        run.store,
        run.tokenizer,
        out,
        run.config,
        task=task,
        resume=resume,
        model_card=lambda result: training_card(
            out.name, run.model, run.store, run.config, result, card
        ),
    )
    finish(run.model, run.request, result, out, as_json=as_json)


def finish(
    model: PreTrainedModel,
    request: Mapping[str, Any],
    result: TrainResult,
    out: Path,
    *,
    as_json: bool,
    unit: str = "token",
) -> None:
    """Print how a run ended; exit code 130 when it was interrupted."""
    if not is_main_process():
        return
    if as_json:
        print_json(
            {
                "steps": result.steps,
                f"{unit}s_seen": result.tokens_seen,
                "seconds": result.seconds,
                f"{unit}s_per_second": result.tokens_per_second,
                "parameters": model.num_parameters(),
                "interrupted": result.interrupted,
                "validation": result.final_validation,
                "out": str(out),
            }
        )
    elif not result.interrupted:
        speed = f"{result.tokens_per_second:,.0f} {unit}s/s"
        rows = [
            *(
                (title, form.format(result.final_validation[key]))
                for key, (title, form) in _measured(result.final_validation, unit).items()
                if key in result.final_validation
            ),
            (f"{unit}s seen", f"{result.tokens_seen:,}"),
            ("training", f"{result.seconds:,.1f} s, {speed}"),
            ("model", str(out)),
        ]
        print_table(make_table("", ("trained", f"{result.steps:,} steps"), rows))
    if result.interrupted:
        again = f"spikeformers {verb_of(request)} --out {shlex.quote(str(out))} --resume"
        say(f"Stopped after step {result.steps}; {again} continues.")
        raise typer.Exit(130)


def _measured(validation: Mapping[str, float], unit: str) -> dict[str, tuple[str, str]]:
    """Key of a validation result -> its title and how it is written."""
    of = "masked token" if "masked_perplexity" in validation else unit
    return {
        "loss": ("validation loss", f"{{:.4f}} nats a {of}"),
        "masked_perplexity": ("masked perplexity", "{:,.2f}"),
        "accuracy": ("accuracy", "{:.4f}"),
        "perplexity": ("perplexity", "{:,.2f} a token"),
        "bits_per_byte": ("bits per byte", "{:.4f}"),
        "teacher_agreement": ("same likeliest token as the teacher", "{:.4f} of tokens"),
        "teacher_kl": ("KL from the teacher", "{:.4f} nats a token"),
    }
