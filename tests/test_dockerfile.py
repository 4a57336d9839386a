"""The Dockerfile of the server, read and not built: its files exist and its command parses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from spikeformers.cli import app

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = ROOT / "Dockerfile"
pytestmark = pytest.mark.skipif(not DOCKERFILE.is_file(), reason="not part of a distribution")


def instructions() -> list[tuple[str, str]]:
    """Name and arguments of each instruction, with continued lines joined."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    lines = [line.split(None, 1) for line in text.splitlines() if line.strip()]
    return [(name, arguments) for name, arguments in lines]


def arguments_of(name: str) -> list[str]:
    return [arguments for instruction, arguments in instructions() if instruction == name]


def test_its_command_is_one_that_the_command_line_takes() -> None:
    (entry,) = (json.loads(arguments) for arguments in arguments_of("ENTRYPOINT"))
    assert entry[0] == "spikeformers"
    parser: Any = get_command(app)
    context = parser.commands[entry[1]].make_context(entry[1], [*entry[2:], "mine.engine"])
    assert context.params["host"] == "0.0.0.0"
    assert str(context.params["model"]) == "mine.engine"
    assert [str(context.params["port"])] == arguments_of("EXPOSE")


def test_what_it_copies_and_installs_exists() -> None:
    for arguments in arguments_of("COPY"):
        source = arguments.split()[-2]
        assert source == "/wheels" or (ROOT / source).exists()
    versions = re.findall(r"python:(\d\.\d+)-slim", " ".join(arguments_of("FROM")))
    classifiers = (ROOT / "pyproject.toml").read_text()
    assert len(set(versions)) == 1
    assert f'"Programming Language :: Python :: {versions[0]}"' in classifiers
    assert re.search(r"^serve = \[", classifiers, re.MULTILINE)
    assert any("[serve]" in arguments for arguments in arguments_of("RUN"))


def test_it_does_not_serve_as_root_and_leaves_the_history_out() -> None:
    assert arguments_of("USER") == ["server"]
    assert {".git", ".venv"} <= set((ROOT / ".dockerignore").read_text().split())
