"""Whatever a library raises becomes one line of one error, and nothing else does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from spikeformers.errors import CheckpointError, DataError, UsageError
from spikeformers.foreign import check_object, foreign, read_json, without_panic_messages


class PanicException(BaseException):
    """As PyO3 calls what Rust code ends in."""


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (ValueError("two\n  lines."), "x: two lines."),
        (KeyError("merges"), "x: 'merges' is missing."),
        (AttributeError("'str' has no get"), "x: AttributeError ('str' has no get)."),
        (Exception(), "x: Exception."),
        (RecursionError("maximum"), "x: it is nested too deeply."),
        (OSError(2, "No such file"), "x: No such file."),
        (PanicException("no entry found"), "x: no entry found."),
    ],
    ids=repr,
)
def test_an_exception_of_a_library_becomes_one_line(raised: BaseException, message: str) -> None:
    with pytest.raises(CheckpointError) as caught, foreign("x"):
        raise raised
    assert str(caught.value) == message
    assert caught.value.__cause__ is raised


def test_our_own_errors_and_an_interruption_pass() -> None:
    with pytest.raises(UsageError, match=r"^mine$"), foreign("x", DataError):
        raise UsageError("mine")
    with pytest.raises(KeyboardInterrupt), foreign("x", DataError):
        raise KeyboardInterrupt


def test_advice_follows_and_the_error_is_the_one_asked_for() -> None:
    with (
        pytest.raises(DataError, match=r"^x: bad\. Copy it\.$"),
        foreign("x", DataError, "Copy it."),
    ):
        raise ValueError("bad")


def test_half_a_character_is_printable() -> None:
    with pytest.raises(CheckpointError) as caught, foreign("x"):
        raise ValueError("\ud800")
    assert str(caught.value) == "x: \\ud800."


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\xff{}", "cannot be read: the byte 0xff at offset 0 is not UTF-8"),
        (b"{", "is not valid JSON: Expecting property name"),
        (b"[1]", "holds a list where an object is needed"),
        (b"null", "holds null where an object is needed"),
        (b"[" * 100_000, "is not valid JSON: it is nested too deeply"),
        (b'{"a": 1}', "cannot be used: 'b' is missing"),
        (b'{"a": 1, "b": "x"}', "cannot be used: b is 'x'; it must be a whole number"),
        (b'{"a": 1, "b": 2, "c": 0}', "cannot be used: c is 0; it must be text"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_file_with_wrong_content_is_named(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_json(path, advice="Begin anew.", needed={"b": int}, optional={"c": str})
    message = str(caught.value)
    assert message.startswith(f"{path} {expected}")
    assert message.endswith(" Begin anew.")
    assert "\n" not in message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.json cannot be read: No such file"):
        read_json(tmp_path / "none.json")


def test_a_good_object_comes_back(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"b": 2, "c": "x", "d": []}')
    values = read_json(tmp_path / "a.json", needed={"b": int}, optional={"c": str})
    assert values == {"b": 2, "c": "x", "d": []}
    assert check_object(values, {"d": list}, "here") is values


def test_a_panics_message_stays_off_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    def fail(message: bytes, error: BaseException) -> None:
        with foreign("x"), without_panic_messages():
            os.write(2, message)
            raise error

    with pytest.raises(CheckpointError):
        fail(b"thread '<unnamed>' panicked at model.rs:267\n", PanicException("slice"))
    assert capfd.readouterr().err == ""
    with without_panic_messages():
        os.write(2, b"a warning\n")
    with pytest.raises(CheckpointError):
        fail(b"another\n", KeyError("x"))
    assert capfd.readouterr().err == "a warning\nanother\n"
