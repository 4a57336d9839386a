"""The folder of a run: beginning, resuming, and the exported model.

run.json  metrics.jsonl  tensorboard/  checkpoints/step-0000100/
run.lock                                                       (while a process writes here)
config.json  model.safetensors  tokenizer files  README.md     (once the run is complete)
"""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from spikeformers.errors import ConfigError, SpikeformersError, UsageError
from spikeformers.foreign import read_json
from spikeformers.storage import publishing, run_lock, write_text
from spikeformers.training.checkpoint import step_folders
from spikeformers.training.config import (
    LENGTH,
    RESUMABLE_CHANGES,
    ROUNDING_CHANGES,
    TrainConfig,
)
from spikeformers.training.distributed import World, full_state
from spikeformers.values import shortened

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

RUN_FILES = ("run.json", "metrics.jsonl", "checkpoints", "config.json", "model.safetensors")
VOLATILE = ("use_cache", "architectures", "transformers_version", "dtype", "_name_or_path")
"""Keys of a model's config that loading and saving change, but training does not read."""


def run_record(
    model: PreTrainedModel,
    manifest: Mapping[str, Any],
    config: TrainConfig,
    task: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of ``run.json``: config, model, data, task and versions."""
    described = json.loads(model.config.to_json_string(use_diff=False))
    return {
        "config": config.as_dict(),
        "model": {key: value for key, value in described.items() if key not in VOLATILE},
        "data": json.loads(json.dumps(dict(manifest), default=str)),
        "task": json.loads(json.dumps(dict(task or {}))),
        "parameters": sum(p.numel() for p in model.parameters()),
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "transformers": str(transformers.__version__),
        },
    }


@contextmanager
def held(out: Path, world: World) -> Iterator[None]:
    """Lock the run folder on the first rank against other processes. Every rank calls this.

    Raises ``UsageError`` on every rank if another process holds the folder.
    """
    with ExitStack() as stack:
        refused: SpikeformersError | None = None
        if world.is_main:
            try:
                stack.enter_context(run_lock(out))
            except SpikeformersError as error:
                refused = error
        if world.any(refused is not None):
            raise refused or UsageError(f"{out} is refused by the first process.")
        yield


def open_run(out: Path, record: dict[str, Any], world: World, *, resume: bool) -> bool:
    """Begin (writes ``run.json``) or resume; returns whether there is a checkpoint to load.

    A run that is resumed for more steps has these in its ``run.json`` from then on. Raises
    ``UsageError`` for a folder that holds a run, or if there is nothing to resume, and
    ``ConfigError``, which names the keys, to resume with another config, model or data.
    """
    if resume:
        _lengthen(out, _same_run(out, record, world), record, world)
        begun = bool(step_folders(out / "checkpoints"))
        if not begun:
            logger.info("no checkpoint in %s yet: beginning at step 0", out)
        return begun
    refuse_taken(out)
    world.sum([0.0])  # a barrier: nobody writes before everybody has checked
    if world.is_main:
        write_text(out / "run.json", json.dumps(record, indent=2) + "\n")
    return False


def refuse_taken(out: Path) -> None:
    """Raise ``UsageError`` for a folder that holds a run."""
    if existing := [name for name in RUN_FILES if (out / name).exists()]:
        raise UsageError(
            f"{out} already holds a run ({existing[0]}). Use --resume to continue it, or another "
            "--out."
        )


def read_run(path: Path) -> dict[str, Any]:
    """The content of a ``run.json`` with checked sections; CheckpointError if it is damaged."""
    sections: dict[str, Any] = {"config": dict, "model": dict, "data": dict}
    advice = "Begin in another --out."
    return read_json(path, advice=advice, needed=sections, optional={"task": dict | None})


def _same_run(out: Path, record: dict[str, Any], world: World) -> dict[str, Any]:
    """The existing record of ``out``; ConfigError if this is another run."""
    path = out / "run.json"
    if not path.is_file():
        raise UsageError(f"Nothing to resume: {path} does not exist. Start without --resume.")
    before = read_run(path)
    sections = {key: dict(before[key] or {}) for key in ("config", "model", "data")}
    sections["task"] = dict(before.get("task") or {})
    sections["config"] = TrainConfig().as_dict() | sections["config"]
    of_config: tuple[str, ...] = RESUMABLE_CHANGES + ROUNDING_CHANGES
    of_config += LENGTH if _only_longer(sections["config"], record["config"]) else ()
    for section, old in sections.items():
        new = record[section]
        differ = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
        refused = [key for key in differ if section != "config" or key not in of_config]
        if refused:
            changes = "; ".join(
                f"{k} was {shortened(old.get(k))}, now {shortened(new.get(k))}" for k in refused
            )
            hint = _why_not_longer(old, new) if set(refused) & set(LENGTH) else ""
            raise ConfigError(
                f"{out} was begun with another {section}: {changes}. {hint}Resume with the values "
                f"of {path}, or begin in another --out."
            )
        rounding = [key for key in differ if key in ROUNDING_CHANGES]
        if rounding and world.is_main:
            logger.warning(
                "%s changed: the run continues, equal up to rounding and dropout, not bit for bit",
                ", ".join(rounding),
            )
    return dict(before)


def _only_longer(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether the new config only adds steps, and earlier steps keep their learning rates."""
    before, after = TrainConfig.from_dict(old), TrainConfig.from_dict(new)
    longer = after.total_steps >= before.total_steps
    return longer and after.schedule_span == before.schedule_span


def _why_not_longer(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    before, after = TrainConfig.from_dict(old), TrainConfig.from_dict(new)
    if after.total_steps < before.total_steps:
        return "A run can be continued for more steps, not for fewer. "
    return (
        f"For more steps at the schedule's last rate add schedule_steps={before.schedule_span}, "
        "the schedule of the steps that were made. "
    )


def _lengthen(out: Path, before: dict[str, Any], record: dict[str, Any], world: World) -> None:
    """Put the longer run's steps into ``run.json``, so that a later resume expects them."""
    steps = {key: record["config"][key] for key in LENGTH}
    if all(before["config"].get(key, 0) == value for key, value in steps.items()):
        return
    world.sum([0.0])  # a barrier: nobody writes before everybody has read
    if world.is_main:
        before["config"] |= steps
        write_text(out / "run.json", json.dumps(before, indent=2) + "\n")


def export(
    model: PreTrainedModel,
    model_class: type[PreTrainedModel],
    tokenizer: Any,
    out: Path,
    world: World,
    model_card: str | None,
) -> None:
    """Save model, tokenizer and card into ``out``, ``config.json`` last. Every rank calls this.

    ``model_class`` is the class before sharding, from which the complete model is rebuilt.
    Raises ``StorageError`` if the disk refuses; existing files in ``out`` stay.
    """
    state = full_state(model) if world.strategy == "fsdp" else None
    if not world.is_main:
        return
    if state is not None:
        model = model_class(model.config)
        model.load_state_dict(state)
    with publishing(
        out,
        last="config.json",
        failed=f"Could not save the model into {out}",
        advice=f"The checkpoints in {out / 'checkpoints'} are complete; free some space and "
        "resume.",
    ) as draft:
        with _no_shard_bar():
            model.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
        if model_card is not None:
            write_text(draft / "README.md", model_card)


@contextmanager
def _no_shard_bar() -> Iterator[None]:
    """Suppress the progress bar that Transformers draws while it writes one file."""
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
