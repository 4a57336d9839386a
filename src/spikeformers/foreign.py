"""What comes from outside, at the border: it is read, or one error says which file and why not.

Files that people hand over are damaged in every way, and the libraries that open them raise what
the damage brings about: KeyError, OverflowError, a bare Exception, a panic of Rust code. `foreign`
turns all of that into one of this package's errors; `read_json` and `read_text` read with it.
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

from spikeformers.errors import CheckpointError, SpikeformersError
from spikeformers.values import fits, misfit


@contextmanager
def foreign(
    what: object, error: type[SpikeformersError] = CheckpointError, advice: str = ""
) -> Iterator[None]:
    """Raise ``error``, one line that begins with ``what``, for anything that fails inside.

    For a block that does nothing but call a foreign library or look into foreign data: a mistake
    of our own would be taken for a damaged file. Errors of this package pass unchanged.
    """
    try:
        yield
    except SpikeformersError:
        raise
    except Exception as cause:
        raise error(f"{what}: {one_line(cause)}.{advice and ' '}{advice}") from cause
    except BaseException as cause:
        if not _is_panic(cause):  # Ctrl-C, an exit
            raise
        raise error(f"{what}: {one_line(cause)}.{advice and ' '}{advice}") from cause


def one_line(error: BaseException, longest: int = 300) -> str:
    """What an exception says, on one line without a full stop; its type where it says little."""
    said = " ".join(str(error).split()).rstrip(".")
    if isinstance(error, KeyError):
        said = f"{said} is missing"
    elif isinstance(error, UnicodeDecodeError):
        said = f"the byte 0x{error.object[error.start]:02x} at offset {error.start} is not UTF-8"
    elif isinstance(error, RecursionError):
        said = "it is nested too deeply"
    elif isinstance(error, OSError) and error.strerror:
        said = error.strerror
    elif isinstance(error, (AttributeError, TypeError, IndexError)) or not said:
        said = f"{type(error).__name__}{said and f' ({said})'}"
    printable = said.encode("utf-8", "backslashreplace").decode("utf-8")
    return printable if len(printable) <= longest else f"{printable[: longest - 4]} ..."


def read_text(
    path: Path, error: type[SpikeformersError] = CheckpointError, advice: str = ""
) -> str:
    """A UTF-8 file's text; ``error`` names a file that cannot be read."""
    with foreign(f"{path} cannot be read", error, advice):
        return path.read_text(encoding="utf-8")


def read_json(
    path: Path,
    error: type[SpikeformersError] = CheckpointError,
    advice: str = "",
    needed: Mapping[str, Any] | None = None,
    optional: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The JSON object in a file; ``error`` names a file that does not hold one.

    ``needed`` are keys that must be there, and the types of their values; ``optional`` are types
    of keys that may be there.
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
    """``value`` if it is an object with the ``needed`` keys, each of its type, else ``error``."""
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
    """What a value is, in the words of JSON: "a list", "null"."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    kinds = {dict: "an object", list: "a list", str: "text", int: "a number", float: "a number"}
    return kinds.get(type(value), f"a {type(value).__name__}")


@contextmanager
def without_panic_messages() -> Iterator[None]:
    """Keep Rust's "thread panicked" off standard error when the block ends in a panic.

    Other things written there meanwhile are let through at the end.
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
            panicked = any(_is_panic(one) for one in (error, error.__cause__))
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
