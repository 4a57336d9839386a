"""The training loop: one step after another, each a pure function of weights, seed and step.

Started as one process, or by ``torchrun`` in several (DDP, FSDP2). Dropout is seeded at each step
and batches depend on the step only, so a run resumed from a checkpoint is the same run.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from spikeformers.errors import ConfigError, TrainingDiverged
from spikeformers.meters import Stopwatch
from spikeformers.progress import Listener
from spikeformers.training.checkpoint import TrainState, checkpoints, load_newest
from spikeformers.training.checkpoint_writer import CheckpointWriter
from spikeformers.training.config import TrainConfig
from spikeformers.training.density import DensityMeter
from spikeformers.training.distributed import compiled_only_here, open_world, spread
from spikeformers.training.gradients import GradientStep
from spikeformers.training.interrupt import Interrupt
from spikeformers.training.journal import Journal
from spikeformers.training.optim import clip, make_optimizer
from spikeformers.training.precision import choose_precision
from spikeformers.training.profiling import StepProfiler
from spikeformers.training.run_folder import export, held, open_run, run_record
from spikeformers.training.task import Store, Task
from spikeformers.training.utilisation import choose_utilisation

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """The end of a run; ``final_validation`` is empty if it was interrupted."""

    steps: int
    tokens_seen: int  # images or examples in other tasks
    seconds: float  # of training steps, over all resumes; validation and saving not counted
    final_validation: dict[str, float] = field(default_factory=dict)
    interrupted: bool = False

    @property
    def tokens_per_second(self) -> float:
        return self.tokens_seen / self.seconds if self.seconds else 0.0


def train(
    model: PreTrainedModel,
    store: Store,
    tokenizer: Any,
    out: str | Path,
    config: TrainConfig,
    *,
    task: Task | None = None,
    resume: bool = False,
    progress: bool | Listener = True,
    on_step: Callable[[int, Mapping[str, float]], None] | None = None,
    model_card: str | Callable[[TrainResult], str] | None = None,
    profile: bool = False,
) -> TrainResult:
    """Train ``model`` in place on ``store`` and export it into the run folder ``out``.

    ``task``, made for the same model, has the loss; by default the model's own. ``store`` is the
    data with its ``manifest``, a TokenStore for most tasks; ``tokenizer`` (or the preprocessing of
    images) is saved beside the model. ``progress`` is whether to show progress, or a callback that
    receives it instead. ``on_step(step, metrics)`` is called after each step, from 1.
    ``profile`` writes a trace of a few steps into ``out/profile``.
    Ctrl-C ends the run after the current step with a checkpoint; ``resume=True`` then continues
    exactly, from the previous checkpoint if the last one is damaged. ``out`` is locked against
    other processes until the end.

    Raises ``UsageError`` before anything is written, ``TrainingDiverged`` if a loss or gradient is
    not finite, before it changes a weight, ``StorageError``, ``CheckpointError``.
    """
    out, total = Path(out), config.total_steps
    world = open_world(config)
    task = task or Task(model)
    with (
        _settings(model, config),
        compiled_only_here(task.module),
        held(out, world),
        closing(task),
        Interrupt() as interrupt,
    ):
        precision = choose_precision(config.precision, world.device)
        batches, measure = task.data(store, tokenizer, config, world, precision)
        per_step = task.per_step(config)
        mfu = choose_utilisation(task.flops_per_unit(config), config, world, precision.name)
        task.start(store, config, world)
        record = run_record(model, store.manifest, config, task.record())
        begun = open_run(out, record, world, resume=resume)
        if world.is_main:
            logger.info("precision %s (%s)", precision.name, precision.reason)
            logger.info("%s, %d process(es), %s", world.strategy, world.size, world.device)
            if mfu is not None:
                logger.info("MFU of %s", mfu.assumption)

        model_class = type(model)
        trained = task.module.train()
        module = spread(trained, world, compiled=config.compile, leaves_unused=task.leaves_unused)
        optimizer = make_optimizer(trained, config)
        meter = DensityMeter()
        gradients = GradientStep(module, task, batches, config, world, precision, meter)
        folder, state = out / "checkpoints", TrainState()
        if begun:
            state = load_newest(folder, trained, optimizer, world)
        validation: dict[str, float] = {}
        stopped = False

        with (
            CheckpointWriter(folder, world, config) as writer,
            Journal(
                out, step=state.step, total=total, enabled=world.is_main, progress=progress
            ) as journal,
            StepProfiler(out, rank=world.rank, step=state.step, enabled=profile) as profiler,
        ):
            while state.step < total and not stopped:
                watch = Stopwatch()
                logs = state.step + 1 in (1, total) or (state.step + 1) % config.log_every == 0
                metrics = gradients(state.step, measure=logs)
                _refuse_divergence(metrics, state.step + 1, writer)
                of_task = task.measured() if logs else {}
                clip(trained, metrics["grad_norm"], config.grad_clip)
                for group in optimizer.param_groups:
                    group["lr"] = metrics["learning_rate"]
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                state.step += 1
                task.stepped(state.step, world)

                took = watch.read().wall
                state.tokens_seen += per_step
                state.seconds += took
                metrics[f"{task.unit}s_per_second"] = per_step / took
                if mfu is not None:
                    metrics["mfu"] = mfu.of(per_step / took)
                spent = {f"{task.unit}s_seen": state.tokens_seen, "seconds": state.seconds}
                measured = meter.report(state.step) | of_task if logs else {}
                if logs:
                    journal.write("train", state.step, metrics | spent | measured)
                journal.advance(state.step, metrics | measured)
                if on_step is not None:
                    on_step(state.step, metrics)

                last = state.step == total
                stopped = world.any(interrupt.requested) and not last
                if last or _due(state.step, config.eval_every):
                    validation = measure(trained)
                    _refuse_divergence(validation, state.step, writer)
                    journal.write("validation", state.step, validation | spent)
                if last or stopped or _due(state.step, config.save_every):
                    writer.save(state, trained, optimizer)
                profiler.step()
            writer.finish()
        if stopped:
            return TrainResult(state.step, state.tokens_seen, state.seconds, interrupted=True)
        if not validation:  # resumed when only the export was left to do
            validation = measure(trained)
        result = TrainResult(state.step, state.tokens_seen, state.seconds, validation)
        task.finish()
        if model.can_generate():
            model.config.use_cache = True
        card = model_card(result) if callable(model_card) else model_card
        export(model, model_class, tokenizer, out, world, card)
        return result


def _refuse_divergence(metrics: Mapping[str, float], step: int, writer: CheckpointWriter) -> None:
    """Raise ``TrainingDiverged`` for a number that is not finite (the same on every rank)."""
    for name, value in metrics.items():
        if not math.isfinite(value):
            writer.finish()
            saved = checkpoints(writer.folder)
            last = f"The last good checkpoint is {saved[-1]}" if saved else "None was saved before"
            raise TrainingDiverged(
                f"The {name} is {value} at step {step}; training stopped there, and the weights "
                f"were left as they were. {last}. Lower learning_rate or grad_clip, or use "
                "another seed."
            )


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


@contextmanager
def _settings(model: PreTrainedModel, config: TrainConfig) -> Iterator[None]:
    """Training mode, no generation cache, checkpointed blocks and the configured threads; undone
    afterwards.
    """
    threads, cached = torch.get_num_threads(), getattr(model.config, "use_cache", None)
    if config.threads:
        torch.set_num_threads(config.threads)
    if cached is not None:
        model.config.use_cache = False
    if config.activation_checkpointing:
        if not model.supports_gradient_checkpointing:
            name = type(model).__name__
            raise ConfigError(f"activation_checkpointing: {name} does not support it.")
        _set_checkpointing(model, True)
    model.train()
    try:
        yield
    finally:
        if config.activation_checkpointing:
            _set_checkpointing(model, False)
        torch.set_num_threads(threads)
        if cached is not None:
            model.config.use_cache = cached
        model.eval()


def _set_checkpointing(model: PreTrainedModel, on: bool) -> None:
    """Switch activation checkpointing of the blocks, by the name that Transformers gives it."""
    verb = "enable" if on else "disable"
    named = getattr(model, f"activation_checkpointing_{verb}", None)
    switch = named or getattr(model, f"gradient_checkpointing_{verb}")
    switch(*([{"use_reentrant": False}] if on else []))
