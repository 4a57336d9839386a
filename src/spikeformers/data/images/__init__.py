"""Images and their classes: where they come from, how they are read, what is wrong with them."""

from spikeformers.data.images.reader import BROKEN, ImageReader, Prep
from spikeformers.data.images.sets import ImageData, ImageSplit
from spikeformers.data.images.sources import NAMED, load_images

__all__ = [
    "BROKEN",
    "NAMED",
    "ImageData",
    "ImageReader",
    "ImageSplit",
    "Prep",
    "load_images",
]
