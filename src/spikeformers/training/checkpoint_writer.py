"""When checkpoints are written: at once, or by a thread while training continues.

In the background (``async_checkpoints``) a step only waits until the tensors are copied to the
memory of the host; `torch.distributed.checkpoint.async_save` then writes them, with a process group
of its own, and the first rank completes the folder. One checkpoint is under way at a time: the next
one, the end of the run and its errors wait for it.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import nn

from spikeformers.training.checkpoint import Draft, TrainState, save_checkpoint, saved_tensors
from spikeformers.training.config import TrainConfig
from spikeformers.training.distributed import World


class CheckpointWriter:
    """Saves a run's checkpoints into ``folder``; a context manager. Every rank has one."""

    def __init__(self, folder: Path, world: World, config: TrainConfig) -> None:
        self.folder, self.world = folder, world
        self._keep, self._in_background = config.keep_checkpoints, config.async_checkpoints
        self._pending: tuple[Draft, Future[None]] | None = None

    def __enter__(self) -> CheckpointWriter:
        if self._in_background:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        return self

    def __exit__(self, *_: object) -> None:
        if self._in_background:
            if self._pending is not None:  # an exception is on its way: no rank may wait for others
                with suppress(Exception):
                    self._pending[1].result()
            self._thread.shutdown()

    def save(self, state: TrainState, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Save, or begin to; first wait for the checkpoint before. Every rank calls this.

        Raises ``StorageError`` on every rank if the disk refused either of them.
        """
        self.finish()
        if not self._in_background:
            save_checkpoint(self.folder, state, model, optimizer, self.world, keep=self._keep)
            return
        draft = Draft.of(self.folder, state.step, self.world)
        draft.open()
        tensors, steps = saved_tensors(model, optimizer)
        written: Any = dcp.async_save(  # copies the tensors before it returns
            tensors,
            storage_writer=draft.writer(),
            process_group=self.world.background,
            no_dist=self.world.size == 1,
        )
        frozen = dataclasses.replace(state)
        self._pending = draft, self._thread.submit(self._complete, written, draft, frozen, steps)

    def finish(self) -> None:
        """Wait until no checkpoint is under way. Every rank calls this.

        Raises ``StorageError`` on every rank if the disk refused it.
        """
        if self._pending is None:
            return
        (draft, pending), self._pending = self._pending, None
        with draft.errors():
            pending.result()

    def _complete(
        self, written: Future[Any], draft: Draft, state: TrainState, steps: Mapping[str, int]
    ) -> None:
        written.result()  # on the first rank: of all ranks
        if self.world.is_main:
            draft.publish(state, steps, self._keep)
