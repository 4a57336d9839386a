"""Fine-tuning as a task of the training loop: classification or regression of sentences.

Every evaluation uses the complete dev set. Nothing is selected by it: the exported model is that of
the last step, with settings fixed before.
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
from spikeformers.training.precision import ForwardPrecision
from spikeformers.training.task import Measure, Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class SentenceStore:
    """The data of `train` in place of a token store: the splits and their manifest."""

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


class SentenceFinetuning(Task):
    """Fine-tunes an ``...ForSequenceClassification`` with the task's number of labels.

    ``started_from`` describes the model; a resumed run must start from the same one.
    """

    counts_flops = False

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
        precision: ForwardPrecision,
    ) -> tuple[Any, Measure]:
        check_context(self.model, config.context)
        data: SentenceData = store.data
        train = Encoded(data.train, tokenizer, config.context)
        dev = {name: Encoded(part, tokenizer, config.context) for name, part in data.dev.items()}

        def measure(trained: torch.nn.Module) -> dict[str, float]:
            """Score the complete dev set on every rank."""
            metrics: dict[str, float] = {}
            for name, part in dev.items():
                with precision.autocast():
                    outputs, loss = predict(trained, part, config.batch_size, world.device)
                end = "" if name == data.task.dev[0] else f"/{name.removeprefix('dev_')}"
                of_part = {"loss": loss} | scores(data.task, part.labels, outputs)
                metrics |= {key + end: value for key, value in of_part.items()}
            return metrics

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
    """Outputs ``[N, labels]``, one row per example, and the mean loss (0 without labels)."""
    was_training = model.training
    model.eval()
    outputs, total = [], 0.0
    for number, batch in enumerate(encoded.batches(batch_size), 1):
        inputs = batch.to(device)
        if encoded.labels is None:
            del inputs["labels"]
        output = model(**inputs)
        outputs.append(output.logits.double().cpu().numpy())
        total += output.loss.item() * batch.targets if encoded.labels is not None else 0.0
        if progress is not None:
            progress(min(number * batch_size, len(encoded)), len(encoded))
    reshard(model)
    model.train(was_training)
    return np.concatenate(outputs), total / len(encoded)


def answers(task: SentenceTask, outputs: NDArray[np.float64]) -> NDArray[Any]:
    """Predicted classes, or scores limited to STS-B's range of 0 to 5."""
    return outputs[:, 0].clip(0, 5) if task.is_regression else outputs.argmax(-1)


def scores(
    task: SentenceTask, labels: list[int] | list[float] | None, outputs: NDArray[np.float64]
) -> dict[str, float]:
    """The task's metrics of ``outputs``."""
    assert labels is not None
    guess = outputs[:, 0] if task.is_regression else answers(task, outputs)
    return {name: METRICS[name](labels, guess) for name in task.metrics}
