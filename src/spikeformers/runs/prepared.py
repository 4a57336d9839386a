"""A run that is ready to be trained, its training, and its result."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from spikeformers.errors import ConfigError
from spikeformers.models import PRESETS, build_model
from spikeformers.progress import is_main_process
from spikeformers.reporting import training_card
from spikeformers.runs.recipe import Recipe
from spikeformers.runs.record import CHOICES, REQUEST, verb_of
from spikeformers.runs.reporter import Reporter
from spikeformers.storage import check_folder, check_unlocked
from spikeformers.training import TrainConfig, TrainResult, train
from spikeformers.training.run_folder import refuse_taken

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from spikeformers.data import TokenStore
    from spikeformers.training.task import Store, Task

POSITIONS = "max_position_embeddings"
SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


@dataclass
class PreparedRun:
    """All arguments of `train`, built."""

    store: Store
    processor: Any  # the tokenizer, or what prepares images
    model: PreTrainedModel
    config: TrainConfig
    request: dict[str, Any]
    """The request, as stored in ``run.json``."""
    description: Sequence[str]
    """Lines that describe the run before it is trained."""
    card: Callable[[str, TrainResult], str]
    """(name, result) -> the model card of the finished run."""
    task: Task | None = None
    unit: str = "token"


@dataclass(frozen=True)
class RunResult:
    """A finished run: the model, trained in place and saved in ``out``, and its figures."""

    out: Path
    verb: str
    model: PreTrainedModel
    processor: Any
    training: TrainResult
    unit: str = "token"
    request: Mapping[str, Any] = field(default_factory=dict)

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended the run early, with a checkpoint to resume from."""
        return self.training.interrupted

    def as_dict(self) -> dict[str, Any]:
        """The figures, as the command line prints them with ``--json``."""
        training = self.training
        return {
            "steps": training.steps,
            f"{self.unit}s_seen": training.tokens_seen,
            "seconds": training.seconds,
            f"{self.unit}s_per_second": training.tokens_per_second,
            "parameters": self.model.num_parameters(),
            "interrupted": training.interrupted,
            "validation": training.final_validation,
            "out": str(self.out),
        }


def prepare_text(
    tokenizer: Any,
    store: TokenStore,
    model: PreTrainedModel,
    config: TrainConfig,
    request: dict[str, Any],
    *,
    task: Task | None = None,
    rows: Mapping[str, str] | None = None,
) -> PreparedRun:
    """A run on text; ``rows`` are additional rows of its model card."""

    def card(name: str, result: TrainResult) -> str:
        return training_card(name, model, store, config, result, rows)

    tokens, corpus = store.split("train").num_tokens, store.manifest["corpus"]
    extra_steps = max(0, config.total_steps - config.schedule_span)
    tokenizer_name = request.get("tokenizer") or "the teacher's"
    extra = (
        f"; the last {extra_steps:,} at the schedule's final learning rate" if extra_steps else ""
    )
    description = [
        f"text      {corpus['name']}, sha256 {corpus['digest'][:12]}; {corpus['split_by']}",
        f"tokens    {tokens:,} to train on; tokenizer {tokenizer_name}",
        f"model     {model.config.model_type}, {model.num_parameters():,} parameters",
        f"training  {config.total_steps:,} steps of {config.tokens_per_step:,} tokens{extra}",
    ]
    return PreparedRun(store, tokenizer, model, config, request, description, card, task)


def carry_out(
    run: PreparedRun,
    out: Path,
    reporter: Reporter,
    *,
    resume: bool,
    name: str = "",
    profile: bool = False,
) -> RunResult:
    """Train into the run folder ``out``; ``name`` titles the model card (default: the folder's).

    ``profile`` writes a trace of a few steps.

    Raises what `train` raises.
    """
    run.store.manifest[REQUEST] = run.request
    for line in run.description:
        reporter.say(line)
    training = train(
        run.model,
        run.store,
        run.processor,
        out,
        run.config,
        task=run.task,
        resume=resume,
        progress=reporter,
        model_card=lambda result: run.card(name or out.name, result),
        profile=profile,
    )
    verb = verb_of(run.request)
    return RunResult(out, verb, run.model, run.processor, training, run.unit, run.request)


def initialise(config: PreTrainedConfig, seed: int) -> PreTrainedModel:
    """A new model whose weights depend only on ``config`` and ``seed``."""
    torch.manual_seed(seed)
    return build_model(config)


def lengths(recipe: Recipe) -> tuple[dict[str, Any], dict[str, Any]]:
    """Model and training keys of a recipe, with one length for positions and context.

    They differ only if both were given.
    """
    model, training = dict(recipe.model), dict(recipe.train)
    if "context" in training:
        model.setdefault(POSITIONS, training["context"])
    training.setdefault("context", model.get(POSITIONS, PRESETS[recipe.preset][POSITIONS]))
    return model, training


def check_out(out: Path, *, resume: bool) -> None:
    """Refuse a run folder that `train` would refuse, before any text or model is read.

    Raises ``UsageError`` if it contains a run (unless that is resumed) or another process writes to
    it, ``StorageError`` if it cannot be written.
    """
    if is_main_process():  # of torchrun's processes, only the first locks the folder
        check_folder(out)
        check_unlocked(out)
    if not resume:
        refuse_taken(out)


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as a file of JSON gives them back."""
    return dict(json.loads(json.dumps(dict(values), default=str)))


def model_request(recipe: Recipe) -> dict[str, Any]:
    """What a new run's request says of its model."""
    return {"preset": recipe.preset, "control": recipe.control, CHOICES: plain(recipe.model)}


def refuse_another_model(out: Path, request: Mapping[str, Any], changes: Recipe) -> None:
    """Raise ``ConfigError`` if a resumed run would change its model.

    What is given again as it was at the start changes nothing.
    """
    started = request.get(CHOICES, {})
    others = {
        key: value for key, value in plain(changes.model).items() if started.get(key) != value
    }
    if changes.preset and changes.preset != request["preset"]:
        others["preset"] = changes.preset
    if changes.control and not request["control"]:
        others["control"] = True
    if others:
        changed = ", ".join(f"{key}={value!r}" for key, value in others.items())
        control = " --control" if request["control"] else ""
        recorded = f"and not with {changed}" if CHOICES in request else f"and {changed} was given"
        raise ConfigError(
            f"{out} was started as {request['preset']}{control}, {recorded}; --resume cannot "
            "change the model. Leave this out to continue the run, or use another --out."
        )
