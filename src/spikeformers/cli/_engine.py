"""The engine for a verb: from its file, or packed from a model folder on the way."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spikeformers.engine import Engine


def open_engine(model: Path, threads: int | None, weights: str = "fp32") -> Engine:
    """The engine of an engine file, or of a model folder with these ``weights``."""
    from spikeformers.engine import Engine, is_engine_file, load

    if is_engine_file(model):
        return load(model, threads=threads)
    from spikeformers.cli._output import start
    from spikeformers.export import pack
    from spikeformers.kernels import choose
    from spikeformers.models import load_model

    choose()  # before the seconds that opening a model takes
    start(verbose=False)
    return Engine(pack(*load_model(model), weights), threads=threads)
