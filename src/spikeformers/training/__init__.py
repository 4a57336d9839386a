"""Training: one loop on torchrun, DDP or FSDP2, with checkpoints that resume exactly."""

from spikeformers.training.config import TrainConfig
from spikeformers.training.loop import TrainResult, train

__all__ = ["TrainConfig", "TrainResult", "train"]
