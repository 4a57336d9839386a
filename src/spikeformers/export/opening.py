"""The engine of a model, whichever form it is in: an engine file, or a folder packed on the way."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from spikeformers.packaged import engine_or_path

if TYPE_CHECKING:
    from spikeformers.engine import Engine


def open_engine(model: str | Path, *, threads: int | None = None, weights: str = "fp32") -> Engine:
    """The engine of an engine file or packaged model, or of a model folder with these ``weights``.

    ``threads`` are all processors unless given; an engine file and a packaged model have weights of
    their own. Raises CheckpointError for what is neither, UsageError for a model that the engine
    does not run, EngineUnavailable where the native kernels are missing. Of an engine file neither
    torch nor Transformers is imported.
    """
    from spikeformers.engine import Engine, is_engine_file, load
    from spikeformers.kernels import choose

    path = engine_or_path(model)
    if is_engine_file(path):
        return load(path, threads=threads)
    choose()  # before the seconds that opening a model takes
    from spikeformers.export.packing import pack
    from spikeformers.models import load_model

    return Engine(pack(*load_model(path), weights), threads=threads)
