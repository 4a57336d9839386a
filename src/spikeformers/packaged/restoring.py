"""The files of a packaged model, and the model folder that is made from them.

    spikeformers/packaged/NAME/
        model.engine          matrices in int8 with a scale per channel, input-major; the tokenizer
        rest.safetensors      every other parameter, in float32
        restore.json          parameter -> matrix of the engine file and its columns
        config.json  tokenizer.json  tokenizer_config.json  README.md ...

A parameter ``[out, in]`` is the transpose of its columns times their scales, which are the numbers
that the engine computes with. The folder in the cache is named by the digest of what it is made
from, so that another version of the package makes its own.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikeformers.errors import CheckpointError, StorageError, UsageError, nearest
from spikeformers.foreign import foreign, read_json
from spikeformers.packaged.known import KNOWN, PackagedModel
from spikeformers.storage import digest_of, draft_of

HOME = Path(__file__).parent
ENGINE, REST, RECIPE = "model.engine", "rest.safetensors", "restore.json"
MODEL = "model.safetensors"


def packaged_engine(name: str) -> Path:
    """The engine file of a packaged model.

    Raises UsageError for a name that no packaged model has, CheckpointError for files that are not
    in this installation.
    """
    return _home(name) / ENGINE


def weights(name: str) -> Path:
    """A model folder of a packaged model, which ``from_pretrained`` loads; made at first use.

    Its weights are those of the engine file in float32; no network is needed. The folder lies in
    ``$SPIKEFORMERS_CACHE``, or ``~/.cache/spikeformers``. Raises UsageError for a name that no
    packaged model has, CheckpointError for files that are missing or damaged, StorageError for a
    cache that cannot be written.
    """
    from spikeformers.data.store import default_cache_dir

    home = _home(name)
    cache = default_cache_dir() / "models"
    folder = cache / f"{name}-{_digest(home)}"
    if folder.is_dir():
        return folder
    try:
        with draft_of(folder) as draft:
            restore(home, draft)
            if not folder.is_dir():  # another process may have made it meanwhile
                os.rename(draft, folder)
    except OSError as error:
        if not folder.is_dir():
            raise StorageError(
                f"the model {name} cannot be written below {cache}: {error.strerror or error}. "
                "Free some space, or name another folder in SPIKEFORMERS_CACHE."
            ) from error
    return folder


def restore(home: Path, folder: Path) -> None:
    """Write the model folder of the packaged files in ``home``; errors as `weights`."""
    from safetensors.numpy import load_file, save_file

    damaged = f"the packaged model in {home} is damaged"
    advice = "Install spikeformers again."
    with foreign(damaged, advice=advice):
        packed, rest = load_file(home / ENGINE), load_file(home / REST)
    recipe = read_json(home / RECIPE, advice=advice)
    with foreign(damaged, advice=advice):
        tensors = {name: columns_of(packed, *place) for name, place in recipe.items()} | rest
    save_file(tensors, folder / MODEL, metadata={"format": "pt"})
    (folder / MODEL).chmod(0o644)  # a cache may be shared
    for file in home.iterdir():
        if file.is_file() and file.name not in (ENGINE, REST, RECIPE):
            shutil.copyfile(file, folder / file.name)


def columns_of(
    packed: Mapping[str, NDArray[Any]], matrix: str, first: int, last: int
) -> NDArray[np.float32]:
    """The parameter ``[out, in]`` that columns of an engine's matrix ``[in, out]`` stand for."""
    scale = packed[f"{matrix}.scale"][first:last]
    real: NDArray[np.float32] = packed[matrix][:, first:last].astype(np.float32) * scale
    return np.ascontiguousarray(real.T)


def engine_or_path(model: str | Path) -> Path:
    """The engine file of a packaged model's name; anything else as it is. A path wins."""
    return packaged_engine(str(model)) if _is_packaged(model) else Path(model)


def folder_or_path(model: str | Path) -> Path:
    """The model folder of a packaged model's name; anything else as it is. A path wins."""
    return weights(str(model)) if _is_packaged(model) else Path(model)


def _is_packaged(model: str | Path) -> bool:
    return isinstance(KNOWN.get(str(model)), PackagedModel) and not Path(model).exists()


def _home(name: str) -> Path:
    names = [each for each, entry in KNOWN.items() if isinstance(entry, PackagedModel)]
    if name not in names:
        why = " It does not come with this package: convert it." if name in KNOWN else ""
        raise UsageError(
            f"no model {name!r} comes with spikeformers; there is {', '.join(names)}."
            f"{why or nearest(name, names)}"
        )
    home = HOME / name
    if not (home / ENGINE).is_file():
        raise CheckpointError(
            f"the files of the model {name} are not in this installation: {home / ENGINE} is "
            "missing. Install spikeformers again, from a wheel or a complete clone."
        )
    return home


def _digest(home: Path) -> str:
    """The digest of all files that the folder is made from."""
    files = sorted(each for each in home.iterdir() if each.is_file())
    parts = ((file.name.encode(), b"\0", file.read_bytes()) for file in files)
    return digest_of(chain.from_iterable(parts))[:16]
