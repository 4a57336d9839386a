"""The batch of a step: a pure function of the seed and the step, divided among the ranks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from spikeformers.data.masking import IGNORED, mask_tokens
from spikeformers.data.sampling import WindowSampler, batch
from spikeformers.errors import ConfigError
from spikeformers.models.registry import is_masked_model
from spikeformers.training.config import TrainConfig
from spikeformers.training.distributed import World

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from spikeformers.data.store import TokenSplit

VALIDATION_EPOCH = 2**31 - 1  # so that validation has the same masks at every evaluation


@dataclass(frozen=True)
class MicroBatch:
    """The input of one forward pass; ``targets`` is the number of labels in its mean loss.

    ``starts`` are the positions of its windows in the split.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    targets: int
    starts: NDArray[Any]

    def to(self, device: torch.device) -> dict[str, torch.Tensor]:
        return {
            "input_ids": self.input_ids.to(device, non_blocking=True),
            "labels": self.labels.to(device, non_blocking=True),
        }


@dataclass(frozen=True)
class Objective:
    """Predict the next token (the model shifts), or the masked tokens if there is a mask token."""

    seed: int
    vocab_size: int
    mask_token_id: int | None = None
    special_ids: tuple[int, ...] = ()
    mask_probability: float = 0.15

    def micro_batch(
        self, ids: NDArray[Any], starts: NDArray[Any], epoch: NDArray[Any] | int
    ) -> MicroBatch:
        if self.mask_token_id is None:
            inputs = torch.from_numpy(np.ascontiguousarray(ids))
            return MicroBatch(inputs, inputs, ids.shape[0] * (ids.shape[1] - 1), starts)
        masked, labels = mask_tokens(
            ids,
            seed=self.seed,
            epoch=epoch,
            starts=starts,
            mask_token_id=self.mask_token_id,
            vocab_size=self.vocab_size,
            special_ids=self.special_ids,
            probability=self.mask_probability,
        )
        targets = int((labels != IGNORED).sum())
        if targets == 0:  # a mean over nothing is NaN: one label of weight zero
            labels[0, 0] = ids[0, 0]
        return MicroBatch(torch.from_numpy(masked), torch.from_numpy(labels), targets, starts)


def make_objective(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: TrainConfig
) -> Objective:
    """Masked for a model that predicts masked tokens, else causal.

    Raises ConfigError if model and tokenizer do not fit.
    """
    vocabulary = model.config.vocab_size
    if len(tokenizer) > vocabulary:
        raise ConfigError(
            f"The tokenizer has {len(tokenizer)} tokens and the model a vocabulary of {vocabulary}."
        )
    check_context(model, config.context)
    if not is_masked_model(model):
        return Objective(config.seed, vocabulary)
    if tokenizer.mask_token_id is None:
        raise ConfigError("A masked model needs a tokenizer with a mask token; this one has none.")
    special = tuple(int(i) for i in tokenizer.all_special_ids)
    return Objective(
        config.seed, len(tokenizer), tokenizer.mask_token_id, special, config.mask_probability
    )


def check_context(model: PreTrainedModel, context: int, who: str = "this model") -> None:
    """Raise ConfigError if ``context`` tokens exceed the positions of the model's config."""
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest and context > longest:
        raise ConfigError(f"context is {context}; {who} takes at most {longest} tokens.")


class TrainBatches:
    """This rank's micro-batches of each step of the training split."""

    def __init__(
        self, split: TokenSplit, objective: Objective, config: TrainConfig, world: World
    ) -> None:
        self.split, self.objective, self.config, self.world = split, objective, config, world
        self.sampler = WindowSampler(
            split.num_tokens, config.context, config.batch_size, config.seed
        )

    def of(self, step: int) -> list[MicroBatch]:
        def parts(global_batch: NDArray[Any]) -> list[NDArray[Any]]:
            share = np.split(global_batch, self.world.size)[self.world.rank]
            return np.split(share, self.config.gradient_accumulation)

        windows = zip(
            parts(self.sampler.indices(step)), parts(self.sampler.epochs(step)), strict=True
        )
        return [
            self.objective.micro_batch(
                batch(self.split, starts, self.config.context), starts, epochs
            )
            for starts, epochs in windows
        ]


def validation_batches(
    split: TokenSplit, objective: Objective, config: TrainConfig, world: World
) -> Iterator[MicroBatch]:
    """Windows spread evenly over the split, the same at each call.

    Every rank gets the same number of batches; a rank without windows left repeats one with 0
    targets.
    """
    context = min(config.context, split.num_tokens)
    windows = split.num_tokens // context
    if config.eval_batches:
        windows = min(windows, config.eval_batches * config.batch_size)
    starts = np.linspace(0, split.num_tokens - context, windows).astype(np.int64)
    for first in range(0, windows, config.batch_size):
        chunk = starts[first : first + config.batch_size]
        share = chunk[world.rank :: world.size]
        part = share if len(share) else chunk[:1]
        inputs = objective.micro_batch(batch(split, part, context), part, VALIDATION_EPOCH)
        yield inputs if len(share) else dataclasses.replace(inputs, targets=0)
