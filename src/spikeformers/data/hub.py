"""Data sets of the Hugging Face hub, through the ``datasets`` library."""

from __future__ import annotations

import hashlib
import http.client
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from spikeformers.data.readers import Document
from spikeformers.errors import DataError, OfflineError, nearest

PATIENCE = 15  # seconds until the hub counts as out of reach


def load_splits(
    name: str, config_name: str | None, field: str
) -> tuple[dict[str, Callable[[], Iterable[Document]]], str]:
    """Streams by split (train, validation, test) and a sha256 (hex) of their texts.

    Raises OfflineError if the hub does not answer, DataError for an unknown name or field.
    """
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise DataError(
            f"{name!r} is not a file or folder here, and reading it from the Hugging Face hub "
            "needs the datasets library. `pip install datasets`."
        ) from error
    check_online("datasets", name)
    try:
        loaded = datasets.load_dataset(name, config_name)
    except datasets.exceptions.DatasetNotFoundError as error:
        raise _unknown(name, error) from error
    except ConnectionError as error:
        raise _offline(name, error) from error
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"data set {name!r} (configuration {config_name!r}) cannot be loaded: {error}"
        ) from error
    streams: dict[str, Callable[[], Iterable[Document]]] = {}
    digest = hashlib.sha256()
    for split, rows in loaded.items():
        if field not in rows.column_names:
            raise DataError(
                f"data set {name!r}, split {split}: no column {field!r}; the columns are "
                f"{sorted(rows.column_names)}.{nearest(field, rows.column_names)} Set text_field."
            )
        rows = rows.select_columns([field])
        canonical = {"valid": "validation", "dev": "validation"}.get(str(split), str(split))
        streams[canonical] = partial(_documents, rows, canonical, field)
        for row_name, text in streams[canonical]():
            digest.update(f"{row_name}\0{text}\0".encode("utf-8", "surrogatepass"))
    if "train" not in streams:
        raise DataError(f"data set {name!r} has no train split; it has {sorted(streams)}.")
    return streams, digest.hexdigest()


def _documents(rows: Any, split: str, field: str) -> Iterator[Document]:
    for number, row in enumerate(rows):
        text = row[field]
        if text is not None and not isinstance(text, str):
            raise DataError(
                f"row {number} of split {split}: {field!r} holds {type(text).__name__}, not text."
            )
        yield f"{split}:{number}", text or ""


def check_online(kind: str, name: str) -> None:
    """Ask the hub once, without the library's half a minute of retries; any answer is enough.

    ``kind`` is ``datasets`` or ``models``. Raises OfflineError if nothing answers.
    """
    if any(os.environ.get(key) for key in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")):
        return  # the library then only reads its cache, without delay
    from huggingface_hub import constants

    try:
        urllib.request.urlopen(f"{constants.ENDPOINT}/api/{kind}/{name}", timeout=PATIENCE).close()
    except urllib.error.HTTPError:
        return  # it answered; the library gives a better message about an unknown name
    except (OSError, http.client.HTTPException) as error:
        if not isinstance(getattr(error, "reason", None), ssl.SSLError):
            raise _offline(name, error) from error


def _offline(name: str, error: Exception) -> OfflineError:
    return OfflineError(
        f"{name!r} is not a file or folder here, and the Hugging Face hub does not answer "
        f"({str(error).splitlines()[0]}). Check the name or the network; use local "
        "files; or, if it was downloaded before, set HF_HUB_OFFLINE=1."
    )


def _unknown(name: str, error: Exception) -> DataError:
    return DataError(
        f"{name!r} is not a file or folder here, and the Hugging Face hub has no such data set or "
        f"does not give access to it ({str(error).splitlines()[0]})."
    )
