"""The gradients of one step: forward and backward over this rank's part of the batch."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from spikeformers.training.config import TrainConfig
from spikeformers.training.density import DensityMeter
from spikeformers.training.distributed import World, average_gradients, gradient_sync
from spikeformers.training.optim import gradient_norm, learning_rate
from spikeformers.training.precision import ForwardPrecision
from spikeformers.training.task import Batches, Task
from spikeformers.training.validation import lm_loss


@dataclass(frozen=True)
class GradientStep:
    """Calls ``module``; ``task.module`` (the same, or inside it) holds the parameters."""

    module: nn.Module
    task: Task
    batches: Batches
    config: TrainConfig
    world: World
    precision: ForwardPrecision
    meter: DensityMeter

    def __call__(self, step: int, *, measure: bool) -> dict[str, float]:
        """Compute gradients; return losses of the global batch, gradient norm and learning rate.

        The language-model loss is a mean over the targets of the global batch, however it is
        divided; penalties and terms are a mean over the parts. ``measure``: in the first part also
        count spikes, and compute the gradient norm of each of the task's terms.
        """
        parts = self.batches.of(step)
        (targets,) = self.world.sum([sum(part.targets for part in parts)])
        even = 1 / len(parts)
        sums = {"loss": 0.0, "plain": 0.0, "rate_loss": 0.0}
        sums |= {f"loss/{term}": 0.0 for term in self.task.terms}
        penalised = False
        norms: dict[str, float] = {}
        for number, part in enumerate(parts):
            inputs = self.task.inputs(part, self.world.device)
            if number == 0:
                if measure and self.task.terms:
                    norms = self._norms_of_terms(inputs, step)
                _seed_step(self.config.seed, step, self.world.rank)
            share = part.targets * self.world.size / max(targets, 1)
            observe = measure and number == 0 and not self.config.compile
            with gradient_sync(self.module, enabled=number == len(parts) - 1):
                counting = self.meter.measuring(self.task.model) if observe else nullcontext()
                with self.precision.autocast(), counting:
                    output = self.module(**inputs)
                loss, language = output.loss * even, lm_loss(output)
                if share != even:
                    loss = loss + language * (share - even)
                loss.backward()
            penalty = getattr(output, "rate_loss", None)
            penalised = penalised or penalty is not None
            sums["loss"] += loss.item()
            sums["plain"] += language.item() * share
            sums["rate_loss"] += penalty.item() * even if penalty is not None else 0.0
            for term in self.task.terms:
                sums[f"loss/{term}"] += output.terms[term].item() * even
        if measure and self.config.compile:
            with (
                torch.no_grad(),
                self.precision.autocast(),
                torch.compiler.set_stance("force_eager"),
                self.meter.measuring(self.task.model),
            ):
                self.task.module(**parts[0].to(self.world.device))
        metrics = dict(zip(sums, self.world.mean(list(sums.values())), strict=True))
        plain = metrics.pop("plain")
        if self.task.plain_loss:
            metrics[self.task.plain_loss] = plain
        if not penalised:
            del metrics["rate_loss"]
        metrics["grad_norm"] = gradient_norm(self.task.module, self.world)
        metrics |= norms
        metrics["learning_rate"] = learning_rate(step, self.config)
        return metrics

    def _norms_of_terms(self, inputs: dict[str, Any], step: int) -> dict[str, float]:
        """The norm of the gradient of each single term; leaves no gradient behind."""
        _seed_step(self.config.seed, step, self.world.rank)
        sharded = self.world.strategy == "fsdp"
        norms = {}
        eager = torch.compiler.set_stance("force_eager") if self.config.compile else nullcontext()
        with eager, gradient_sync(self.module, enabled=sharded):
            with self.precision.autocast():
                output = self.module(**inputs)
            for term in self.task.terms:
                output.contributions[term].backward(retain_graph=True)
                if not sharded:
                    average_gradients(self.task.module, self.world)
                norms[f"grad_norm/{term}"] = gradient_norm(self.task.module, self.world)
                self.task.module.zero_grad(set_to_none=True)
        return norms


def _seed_step(seed: int, step: int, rank: int) -> None:
    """Seed dropout per step, independent of earlier steps, so no generator state is saved."""
    (mixed,) = np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)
    torch.manual_seed(int(mixed) % 2**63)
