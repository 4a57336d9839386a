"""Training on images: augmentation, averaged weights, accuracy; the loop is the same."""

from spikeformers.training.vision.config import TRAINING, VisionConfig
from spikeformers.training.vision.store import ImageStore
from spikeformers.training.vision.task import VisionTask

__all__ = ["TRAINING", "ImageStore", "VisionConfig", "VisionTask"]
