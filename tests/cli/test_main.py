from __future__ import annotations

import errno
import subprocess
import sys

import pytest

from spikeformers import cli
from spikeformers.errors import CheckpointError, UsageError


def test_help_names_every_verb(spikeformers):
    ended = spikeformers("--help")
    assert ended.code == 0
    for verb in ("demo", "pretrain", "distill", "evaluate", "generate", "energy", "audit", "info"):
        assert f" {verb} " in ended.out


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom spikeformers.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'datasets', 'matplotlib', 'numpy', 'tokenizers'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_version(spikeformers):
    from spikeformers import __version__

    assert spikeformers("--version").out == f"spikeformers {__version__}\n"


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (UsageError("what is wrong [sic]"), 2, "error: what is wrong [sic]\n"),
        (CheckpointError("it is broken"), 1, "error: it is broken\n"),
        (KeyboardInterrupt(), 130, ""),
        (
            OSError(errno.ENOSPC, "No space left on device", "/full/disk"),
            1,
            "error: No space left on device: /full/disk. Existing files are unchanged; free some "
            "space.\n",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "/their/file"),
            1,
            "error: Permission denied: /their/file. Choose another location, or get write "
            "permission for this one.\n",
        ),
        (
            ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
            1,
            "error: Connection reset by peer. --debug shows where.\n",
        ),
    ],
)
def test_errors_become_one_message_and_a_code(spikeformers, monkeypatch, raised, code, message):
    def fail(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(cli, "app", fail)
    ended = spikeformers("info", "x")
    assert ended.code == code
    assert ended.out == ""
    assert "Traceback" not in ended.err
    if message:
        assert ended.err == message


def test_debug_shows_the_traceback(monkeypatch):
    def fail(arguments: list[str], **_: object) -> None:
        assert arguments == ["info", "x"]
        raise UsageError("what is wrong")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(UsageError, match="what is wrong"):
        cli.main(["info", "x", "--debug"])


@pytest.mark.parametrize("verb", ["info", "generate", "energy", "audit", "pretrain", "distill"])
def test_a_missing_argument_is_a_usage_error(spikeformers, verb):
    ended = spikeformers(verb)
    assert ended.code == 2
    assert "Missing" in ended.err


def test_an_unknown_verb_is_a_usage_error(spikeformers):
    assert spikeformers("pretrian").code == 2
