"""Fine-tuning as a task of the training loop: classification or regression of sentences.

Validation is the whole dev set, at every evaluation; nothing is selected on it: the model that is
exported is that of the last step, with settings fixed before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from spikeformers.data.glue import SentenceData, SentenceTask
from spikeformers.progress import Move
from spikeformers.training.batches import check_context
from spikeformers.training.config import TrainConfig
from spikeformers.training.distributed import World, reshard
from spikeformers.training.glue.examples import Encoded, ExampleBatches
from spikeformers.training.glue.metrics import METRICS
from spikeformers.training.precision import Precision
from spikeformers.training.task import Measure, Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class SentenceStore:
    """What `train` is given instead of a token store: the data's splits and their manifest."""

    def __init__(self, data: SentenceData) -> None:
        self.data = data
        sizes = {"train": len(data.train)}
        sizes |= {name: len(part) for name, part in (data.dev | data.test).items()}
        self.manifest: dict[str, Any] = {
            "task": data.task.name,
            "origin": data.origin,
            "sha256": data.digest,
            "examples": sizes,
        }


class Finetuning(Task):
    """``model`` is an ``...ForSequenceClassification`` with the task's number of labels.

    ``started_from`` says what it is; a resumed run must have the same.
    """

    unit = "example"

    def __init__(self, model: PreTrainedModel, started_from: Mapping[str, str]) -> None:
        super().__init__(model)
        self.started_from = dict(started_from)

    def data(
        self,
        store: Any,
        tokenizer: PreTrainedTokenizerBase,
        config: TrainConfig,
        world: World,
        precision: Precision,
    ) -> tuple[Any, Measure]:
        check_context(self.model, config.context)
        data: SentenceData = store.data
        train = Encoded(data.train, tokenizer, config.context)
        dev = {name: Encoded(part, tokenizer, config.context) for name, part in data.dev.items()}

        def measure(trained: torch.nn.Module) -> dict[str, float]:
            """Every rank scores the whole dev set."""
            found: dict[str, float] = {}
            for name, part in dev.items():
                with precision.autocast():
                    outputs, loss = predict(trained, part, config.batch_size, world.device)
                end = "" if name == data.task.dev[0] else f"/{name.removeprefix('dev_')}"
                scored = {"loss": loss} | scores(data.task, part.labels, outputs)
                found |= {key + end: value for key, value in scored.items()}
            return found

        return ExampleBatches(train, config, world), measure

    def per_step(self, config: TrainConfig) -> int:
        return config.batch_size

    def record(self) -> dict[str, Any]:
        return self.started_from


@torch.no_grad()
def predict(
    model: torch.nn.Module,
    encoded: Encoded,
    batch_size: int,
    device: torch.device,
    progress: Move | None = None,
) -> tuple[NDArray[np.float64], float]:
    """Outputs ``[N, labels]``, example by example, and the mean loss (0 without labels)."""
    was_training = model.training
    model.eval()
    outputs, total = [], 0.0
    for number, one in enumerate(encoded.batches(batch_size), 1):
        given = one.to(device)
        if encoded.labels is None:
            del given["labels"]
        output = model(**given)
        outputs.append(output.logits.double().cpu().numpy())
        total += output.loss.item() * one.targets if encoded.labels is not None else 0.0
        if progress is not None:
            progress(min(number * batch_size, len(encoded)), len(encoded))
    reshard(model)
    model.train(was_training)
    return np.concatenate(outputs), total / len(encoded)


def answers(task: SentenceTask, outputs: NDArray[np.float64]) -> NDArray[Any]:
    """Classes, or scores cut to STS-B's 0 to 5."""
    return outputs[:, 0].clip(0, 5) if task.is_regression else outputs.argmax(-1)


def scores(
    task: SentenceTask, labels: list[int] | list[float] | None, outputs: NDArray[np.float64]
) -> dict[str, float]:
    """The task's metrics."""
    assert labels is not None
    guess = outputs[:, 0] if task.is_regression else answers(task, outputs)
    return {name: METRICS[name](labels, guess) for name in task.metrics}
