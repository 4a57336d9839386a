"""Reading foreign data: either it is read, or one error says which file is bad and why.

Files from users may be damaged in any way, and the libraries that open them then raise anything:
KeyError, OverflowError, a bare Exception, a panic of Rust code. `foreign` turns all of them into
one of this package's errors; `read_json` and `read_text` use it.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from spikeformers.errors import CheckpointError, DataError, SpikeformersError
from spikeformers.values import fits, misfit


@contextmanager
def foreign(
    subject: object, error: type[SpikeformersError] = CheckpointError, advice: str = ""
) -> Iterator[None]:
    """Raise ``error``, one line that begins with ``subject``, for any exception inside the block.

    The block should only call a foreign library or read foreign data, since a bug of our own in it
    would be reported as a damaged file. Errors of this package pass unchanged.
    """
    try:
        yield
    except SpikeformersError:
        raise
    except Exception as cause:
        raise error(f"{subject}: {one_line(cause)}.{advice and ' '}{advice}") from cause
    except BaseException as cause:
        if not _is_panic(cause):  # Ctrl-C, an exit
            raise
        raise error(f"{subject}: {one_line(cause)}.{advice and ' '}{advice}") from cause


@contextmanager
def encoding(subject: object = "the text") -> Iterator[None]:
    """Raise ``DataError`` for ``subject`` if a call in the block cannot encode its text.

    For instance, the vocabulary may lack a word and have no token for unknown words.
    """
    with foreign(f"the tokenizer cannot encode {subject}", DataError):
        yield


def one_line(error: BaseException, longest: int = 300) -> str:
    """An exception's message on one line, without a full stop; with its type if it says little."""
    text = " ".join(str(error).split()).rstrip(".")
    if isinstance(error, KeyError):
        text = f"{text} is missing"
    elif isinstance(error, UnicodeDecodeError):
        text = f"the byte 0x{error.object[error.start]:02x} at offset {error.start} is not UTF-8"
    elif isinstance(error, RecursionError):
        text = "it is nested too deeply"
    elif isinstance(error, OSError) and error.strerror:
        text = error.strerror
    elif isinstance(error, (AttributeError, TypeError, IndexError)) or not text:
        text = f"{type(error).__name__}{text and f' ({text})'}"
    printable = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return printable if len(printable) <= longest else f"{printable[: longest - 4]} ..."


def read_text(
    path: Path, error: type[SpikeformersError] = CheckpointError, advice: str = ""
) -> str:
    """A UTF-8 file's text; raises ``error``, which names the file, if it cannot be read."""
    with foreign(f"{path} cannot be read", error, advice):
        return path.read_text(encoding="utf-8")


def read_json(
    path: Path,
    error: type[SpikeformersError] = CheckpointError,
    advice: str = "",
    needed: Mapping[str, Any] | None = None,
    optional: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The JSON object in a file; raises ``error``, which names the file, if it holds none.

    ``needed`` maps required keys to the types of their values, ``optional`` other keys.
    """
    text = read_text(path, error, advice)
    with foreign(f"{path} is not valid JSON", error, advice):
        value = json.loads(text)
    return check_object(value, needed or {}, path, error, advice, optional)


def check_object(
    value: Any,
    needed: Mapping[str, Any],
    where: object,
    error: type[SpikeformersError] = CheckpointError,
    advice: str = "",
    optional: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """``value`` if it is an object with the ``needed`` keys and types; else raises ``error``."""
    end = f" {advice}" if advice else ""
    if not isinstance(value, dict):
        raise error(f"{where} holds {json_kind(value)} where an object is needed.{end}")
    for key in needed:
        if key not in value:
            raise error(f"{where} cannot be used: {key!r} is missing.{end}")
    for key, kind in {**needed, **(optional or {})}.items():
        if key in value and not fits(value[key], kind):
            raise error(f"{where} cannot be used: {misfit(key, value[key], kind)}{end}")
    return value


def json_kind(value: object) -> str:
    """The kind of a JSON value, for messages: "a list", "null"."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    kinds = {dict: "an object", list: "a list", str: "text", int: "a number", float: "a number"}
    return kinds.get(type(value), f"a {type(value).__name__}")


@contextmanager
def without_panic_messages() -> Iterator[None]:
    """Keep Rust's "thread panicked" off standard error when the block ends in a panic.

    Without a panic, what the block writes there appears at its end.
    """
    try:
        sys.stderr.flush()
        screen = os.dup(2)
    except (OSError, ValueError, AttributeError):  # there is no standard error to keep clean
        yield
        return
    panicked = False
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException as error:
            panicked = _is_panic(error) or _is_panic(error.__cause__)
            raise
        finally:
            with suppress(OSError, ValueError):
                sys.stderr.flush()
            os.dup2(screen, 2)
            if not panicked:
                held.seek(0)
                os.write(screen, held.read())
            os.close(screen)


def _is_panic(error: BaseException | None) -> bool:
    """Whether Rust code panicked: PyO3's class has no other base, and no module to import from."""
    return type(error).__name__ == "PanicException"
