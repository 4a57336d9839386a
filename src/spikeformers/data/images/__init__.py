"""Labelled images and recordings of events: sources, formats, and reading with checks."""

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
