"""Data sets of the Hugging Face hub, through the ``datasets`` library."""

from __future__ import annotations

import hashlib
import http.client
import itertools
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from spikeformers.data.readers import Document
from spikeformers.errors import DataError, OfflineError, nearest
from spikeformers.foreign import foreign

PATIENCE = 15  # seconds until the hub counts as out of reach


def load_splits(
    name: str, config_name: str | None, field: str
) -> tuple[dict[str, Callable[[], Iterable[Document]]], str]:
    """Streams by split (train, validation, test) and a sha256 (hex) of their texts.

    Raises OfflineError if the hub does not answer, DataError for an unknown name or field.
    """
    loaded = _load(name, config_name)
    streams: dict[str, Callable[[], Iterable[Document]]] = {}
    digest = hashlib.sha256()
    for split, rows in loaded.items():
        if field not in rows.column_names:
            raise DataError(
                f"data set {name!r}, split {split}: no column {field!r}; the columns are "
                f"{sorted(rows.column_names)}.{nearest(field, rows.column_names)} Set text_field."
            )
        rows = rows.select_columns([field])
        canonical = _canonical(split)
        streams[canonical] = partial(_documents, rows, canonical, field)
        for row_name, text in streams[canonical]():
            digest.update(f"{row_name}\0{text}\0".encode("utf-8", "surrogatepass"))
    _require_train(name, streams)
    return streams, digest.hexdigest()


def stream_splits(
    name: str, config_name: str | None, field: str
) -> tuple[dict[str, Callable[[], Iterable[Document]]], str]:
    """As `load_splits`, by streaming; the sha256 is of name, configuration and revision.

    The streams read this revision whenever they are opened, and raise OfflineError if the
    connection ends.
    """
    revision = _revision(name)
    loaded = _load(name, config_name, streaming=True, revision=revision)
    streams: dict[str, Callable[[], Iterable[Document]]] = {
        _canonical(split): partial(_streamed, rows, _canonical(split), field, name)
        for split, rows in loaded.items()
    }
    _require_train(name, streams)
    return streams, hashlib.sha256(f"{name}\0{config_name}\0{revision}".encode()).hexdigest()


def _load(name: str, config_name: str | None, **options: Any) -> Any:
    """The splits of a data set, by ``datasets.load_dataset`` with ``options``."""
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise DataError(
            f"{name!r} is not a file or folder here, and reading it from the Hugging Face hub "
            "needs the datasets library. `pip install datasets`."
        ) from error
    check_online("datasets", name)
    try:
        return datasets.load_dataset(name, config_name, **options)
    except datasets.exceptions.DatasetNotFoundError as error:
        raise _unknown(name, error) from error
    except ConnectionError as error:
        raise _offline(name, error) from error
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"data set {name!r} (configuration {config_name!r}) cannot be loaded: {error}"
        ) from error


def _revision(name: str) -> str | None:
    """The commit that the hub has of a data set; None if it may not be called (HF_HUB_OFFLINE)."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    check_online("datasets", name)
    try:
        return str(HfApi().dataset_info(name, timeout=PATIENCE).sha)
    except OfflineModeIsEnabled:
        return None
    except HfHubHTTPError as error:
        raise _unknown(name, error) from error
    except OSError as error:
        raise _offline(name, error) from error


def _streamed(rows: Any, split: str, field: str, name: str) -> Iterator[Document]:
    """Documents of a streamed split; the library's own errors become ours."""
    rows_read = iter(rows)
    for number in itertools.count():
        interrupted = f"reading {name!r} from the hub stopped at row {number:,} of split {split}"
        with foreign(interrupted, OfflineError, "Run the same command again to continue."):
            row = next(rows_read, None)
        if row is None:
            return
        if field not in row:
            raise DataError(
                f"data set {name!r}, split {split}: no column {field!r}; the columns are "
                f"{sorted(row)}.{nearest(field, row)} Set text_field."
            )
        yield f"{split}:{number}", _text(row[field], number, split, field)


def _canonical(split: object) -> str:
    return {"valid": "validation", "dev": "validation"}.get(str(split), str(split))


def _require_train(name: str, streams: Mapping[str, Any]) -> None:
    if "train" not in streams:
        raise DataError(f"data set {name!r} has no train split; it has {sorted(streams)}.")


def _documents(rows: Any, split: str, field: str) -> Iterator[Document]:
    for number, row in enumerate(rows):
        yield f"{split}:{number}", _text(row[field], number, split, field)


def _text(value: Any, number: int, split: str, field: str) -> str:
    if value is not None and not isinstance(value, str):
        raise DataError(
            f"row {number} of split {split}: {field!r} holds {type(value).__name__}, not text."
        )
    return value or ""


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
