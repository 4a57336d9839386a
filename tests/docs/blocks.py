"""Fenced blocks of README and docs, and the commands in them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHELLS = ("bash", "sh", "console")
_BLOCK = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    page: str
    language: str
    text: str


@dataclass(frozen=True)
class Command:
    """One command of a block, as words without comments."""

    page: str
    words: tuple[str, ...]

    @property
    def line(self) -> str:
        return " ".join(self.words)

    @property
    def verb(self) -> str:
        """ "evaluate perplexity", of a command of ours."""
        groups = ("evaluate", "export", "bench")
        return " ".join(self.words[1 : 3 if self.words[1] in groups else 2])


def blocks() -> list[Block]:
    """All fenced blocks."""
    return [
        Block(str(page.relative_to(ROOT)), language, text)
        for page in PAGES
        for _, language, text in _BLOCK.findall(page.read_text(encoding="utf-8"))
    ]


def commands() -> list[Command]:
    """The commands of all shell blocks, each once per page."""
    found = []
    for block in blocks():
        if block.language in SHELLS:
            text = block.text.replace("\\\n", " ")
            for line in text.splitlines():
                words = shlex.split(line.removeprefix("$ "), comments=True)
                found += [Command(block.page, part) for part in _parts(words) if part]
    return list(dict.fromkeys(found))


def _parts(words: list[str]) -> list[tuple[str, ...]]:
    """The commands of a line that ``&&`` joins."""
    parts: list[list[str]] = [[]]
    for word in words:
        if word == "&&":
            parts.append([])
        else:
            parts[-1].append(word)
    return [tuple(part) for part in parts]
