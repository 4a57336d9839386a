"""Classification of images: cross entropy, accuracy, averaged weights, gradient norms by layer."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import ImageClassifierOutput

from spikeformers.errors import ConfigError, DataError
from spikeformers.training.config import TrainConfig
from spikeformers.training.distributed import World
from spikeformers.training.optim import layer_norms
from spikeformers.training.precision import ForwardPrecision
from spikeformers.training.task import Batches, Measure, Task
from spikeformers.training.vision.config import VisionConfig
from spikeformers.training.vision.store import ImageBatches, ImageStore

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Classifier(nn.Module):
    """A vision model with the loss of the run; ``average`` holds averaged weights, or None."""

    def __init__(self, model: PreTrainedModel, vision: VisionConfig) -> None:
        super().__init__()
        self.model, self.smoothing, self.decay = model, vision.label_smoothing, vision.ema_decay
        self.average = copy.deepcopy(model).requires_grad_(False) if vision.ema_decay else None

    def forward(self, pixel_values: Tensor, labels: Tensor) -> ImageClassifierOutput:
        """Loss for classes ``[B]`` or their shares ``[B, classes]``, and logits."""
        logits = self.model(pixel_values).logits
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.smoothing)
        return ImageClassifierOutput(loss=loss, logits=logits)

    @torch.no_grad()
    def follow(self) -> None:
        """``average <- decay * average + (1 - decay) * model``; integers are copied."""
        if self.average is None:
            return
        average, current = self.average.state_dict(), self.model.state_dict()
        for name, value in current.items():
            if value.is_floating_point():
                average[name].lerp_(value, 1 - self.decay)
            else:
                average[name].copy_(value)


class VisionTask(Task):
    """Training of an image classifier on an ``ImageStore``."""

    counts_flops = False

    unit = "image"
    plain_loss = ""

    def __init__(self, model: PreTrainedModel, vision: VisionConfig) -> None:
        super().__init__(model)
        self.vision = vision
        self.module: Classifier = Classifier(model, vision)

    def data(
        self,
        store: Any,
        tokenizer: Any,
        config: TrainConfig,
        world: World,
        precision: ForwardPrecision,
    ) -> tuple[Batches, Measure]:
        assert isinstance(store, ImageStore)
        if world.strategy == "fsdp":
            raise ConfigError(
                "strategy is 'fsdp', which does not share the statistics of batch norm. Use ddp."
            )
        labels, classes = self.model.config.num_labels, len(store.data.classes)
        if labels != classes:
            raise ConfigError(f"the model has {labels} classes; these data have {classes}.")

        def measure(trained: nn.Module) -> dict[str, float]:
            assert isinstance(trained, Classifier)
            measured = trained.average if trained.average is not None else trained.model
            return validate(measured, store, config, world, precision)

        return ImageBatches(store, config, self.vision, world), measure

    def per_step(self, config: TrainConfig) -> int:
        return config.batch_size

    def measured(self) -> dict[str, Any]:
        return {"grad_norm_by_projection": layer_norms(self.model)}

    def stepped(self, step: int, world: World) -> None:
        if world.size > 1:  # each rank has statistics of its share: keep the mean of all
            for name, buffer in self.model.named_buffers():
                if buffer.is_floating_point() and "running" in name:
                    dist.all_reduce(buffer)
                    buffer /= world.size
        self.module.follow()

    def finish(self) -> None:
        if self.module.average is not None:
            self.model.load_state_dict(self.module.average.state_dict())

    def record(self) -> dict[str, Any]:
        return self.vision.as_dict()


@torch.no_grad()
def validate(
    model: nn.Module,
    store: ImageStore,
    config: TrainConfig,
    world: World,
    precision: ForwardPrecision,
) -> dict[str, float]:
    """Cross entropy without smoothing, and accuracy."""
    was_training = model.training
    model.eval()
    loss = right = count = 0.0
    limit = config.eval_batches * config.batch_size
    batches = store.batches("validation", config.batch_size, limit)
    with precision.autocast():
        for number, batch in enumerate(batches):
            if number % world.size != world.rank:
                continue
            logits = model(batch["pixel_values"].to(world.device)).logits.float()
            labels = batch["labels"].to(world.device)
            loss += float(F.cross_entropy(logits, labels, reduction="sum").double())
            right += int((logits.argmax(-1) == labels).sum())
            count += len(labels)
    model.train(was_training)
    loss, right, count = world.sum([loss, right, count])
    if count == 0:
        raise DataError("no validation image can be read.")
    return {"loss": loss / count, "accuracy": right / count}
