"""Files a user can hand over, each changed in a few hundred ways: none may end in a traceback.

A mutation passes when what reads the file succeeds or raises a SpikeformersError of one line.
Each test takes ``survive``; its quick form runs in every suite, the long one by ``-m fuzz``.
"""

from __future__ import annotations

import copy
import json
import random
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from spikeformers.errors import SpikeformersError

QUICK, PART, PARTS = 300, 500, 20
"""Mutations of a quick test, and of each of the parts that a long one has."""
HANGS_AFTER = 60  # seconds; what a mutation costs when nothing is wrong is milliseconds
REPORTED = 12  # distinct failures in one message

STRANGE: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 7, 255, 1 << 16, 1 << 31, 1 << 32, 1 << 63, 1 << 64, 10**30),
    *(-(1 << 63), 0.5, -0.5, 1e-300, 1e308, float("inf"), float("-inf"), float("nan")),
    *("", " ", "x", "0", "none", "null", "\ud800", "\udcff", "é", "\u0000", "a\nb", "../x", "/"),
    *("🙂" * 3, "x" * 5000, [], {}, [[]], [[[[[[]]]]]], [None], [0], [""], ["x", 1, None], {"": 0}),
    *({"x": {"x": {}}}, {"type": "x"}, [1, -1, 1 << 40], {"content": 3}, "[UNK]", "left", "auto"),
]

Mutator = Callable[[bytes, random.Random], bytes]


def change_bytes(content: bytes, draw: random.Random) -> bytes:
    """Flip, cut out, put in, repeat or break off."""
    raw = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 8))):
        if not raw:
            return b""
        at = draw.randrange(len(raw))
        length = draw.choice((1, 2, 4, 8, 64))
        kind = draw.randrange(7)
        if kind == 0:
            raw[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del raw[at : at + length]
        elif kind == 2:
            raw[at:at] = draw.randbytes(length)
        elif kind == 3:
            raw[at : at + length] = draw.choice((b"\x00", b"\xff", b"\x7f")) * length
        elif kind == 4:
            raw[at:at] = raw[at : at + length]
        elif kind == 5:
            del raw[at:]
        else:
            number = draw.choice((0, 1, -1, 1 << 31, (1 << 63) - 1, -(1 << 62)))
            raw[at : at + 8] = number.to_bytes(8, "little", signed=True)
    return bytes(raw)


def change_value(value: Any, draw: random.Random) -> Any:
    """A copy of plain data with one to three places changed."""
    holder = {"": copy.deepcopy(value)}
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        places = list(_places(holder))
        # A vocabulary must not take all draws: a depth first, then a place at that depth.
        depth = draw.choice(sorted({path for path, *_ in places}))
        _, parent, key = draw.choice([place for place in places if place[0] == depth])
        if draw.random() < 0.25:  # a value of the same type from elsewhere
            like = [p[k] for _, p, k in places if type(p[k]) is type(parent[key])]
            parent[key] = copy.deepcopy(draw.choice(like))
        else:
            _change(parent, key, draw)
    return holder[""]


def _places(node: Any, depth: int = 1) -> Iterator[tuple[int, Any, Any]]:
    """Depth, container and key of every value."""
    keys = list(node) if isinstance(node, dict) else range(min(len(node), 50))
    for key in keys:
        yield depth, node, key
        if isinstance(node[key], (dict, list)):
            yield from _places(node[key], depth + 1)


def _change(parent: Any, key: Any, draw: random.Random) -> None:
    old, kind = parent[key], draw.randrange(8)
    if kind == 0 and not (isinstance(parent, dict) and key == ""):
        del parent[key]
    elif kind == 1 and isinstance(old, str) and old:
        place = draw.randrange(len(old))
        parent[key] = old[:place] + draw.choice("xX_ é9\ud800") + old[place + 1 :]
    elif kind == 1 and isinstance(old, (int, float)) and not isinstance(old, bool):
        parent[key] = draw.choice((old + 1, old - 1, -old, old * 1000, str(old), float(old) / 3))
    elif kind == 2 and isinstance(parent, dict) and key != "":
        parent[f"{key}{draw.choice(('x', 's', ' ', '_'))}"] = parent.pop(key)
    elif kind == 3 and isinstance(old, list) and old:
        old.append(copy.deepcopy(draw.choice(old)))
    elif kind == 4:
        parent[key] = draw.choice(([old], {"x": old}, [old, copy.deepcopy(old)], str(old)))
    else:
        parent[key] = copy.deepcopy(draw.choice(STRANGE))


def change_json(content: bytes, draw: random.Random) -> bytes:
    """Half of the time a place in the data, else the bytes; at times a key stands twice."""
    if draw.random() < 0.3:
        return change_bytes(content, draw)
    text = json.dumps(change_value(json.loads(content), draw))
    if draw.random() < 0.1 and text.startswith('{"'):
        key = text[1 : text.index(":")]
        text = f"{{{key}: {json.dumps(draw.choice(STRANGE))}, {text[1:]}"
    return text.encode()


def change_lines(content: bytes, draw: random.Random) -> bytes:
    """One line of JSON Lines changed, or the bytes."""
    lines = content.splitlines(keepends=True)
    if draw.random() < 0.3 or not lines:
        return change_bytes(content, draw)
    at = draw.randrange(len(lines))
    lines[at] = change_json(lines[at], draw).replace(b"\n", b" ") + b"\n"
    return b"".join(lines)


def change_safetensors(content: bytes, draw: random.Random) -> bytes:
    """The header as data with its length put right, or the bytes, most of them of the header."""
    size = int.from_bytes(content[:8], "little")
    header, data = content[8 : 8 + size], content[8 + size :]
    kind = draw.random()
    if kind < 0.15:
        return change_bytes(content, draw)
    if kind < 0.3:
        return change_bytes(content[: 8 + size], draw) + data
    changed = change_json(header, draw)
    changed += b" " * (-len(changed) % 8)
    return len(changed).to_bytes(8, "little") + changed + data


class Survive:
    """``survive(content, change, use)``: ``use(mutant)`` for many mutants of ``content``."""

    def __init__(self, count: int, part: int) -> None:
        self.count, self.part = count, part

    def __call__(
        self,
        content: bytes,
        change: Mutator,
        use: Callable[[bytes], object],
        *,
        share: float = 1.0,
    ) -> dict[str, int]:
        """Counts of what came; fails with the distinct tracebacks. ``share``: of a quick test."""
        came = {"fine": 0, "refused": 0}
        failures: dict[str, str] = {}
        share = 1.0 if self.part else share
        for number in range(round(self.count * share)):
            mutant = change(content, random.Random(f"{self.part} {number}"))
            try:
                with _no_hanging():
                    use(mutant)
                came["fine"] += 1
            except SpikeformersError as error:
                came["refused"] += 1
                if "\n" in str(error).strip() or not str(error).strip():
                    failures.setdefault(f"lines {type(error)}", f"{number}: {str(error)[:2000]!r}")
            except (KeyboardInterrupt, pytest.fail.Exception):
                raise
            except BaseException as error:  # a panic of a Rust library is no Exception
                where = traceback.extract_tb(error.__traceback__)
                ours = [f for f in where if "/spikeformers/" in f.filename] or list(where)
                key = (
                    f"{type(error).__name__} {where[-1].name} {ours[-1].filename} {ours[-1].lineno}"
                )
                failures.setdefault(
                    key, f"{number}: " + "".join(traceback.format_exception(error))[-1500:]
                )
        if failures:
            shown = "\n---\n".join(list(failures.values())[:REPORTED])
            pytest.fail(f"{came}, {len(failures)} ways to fail:\n{shown}")
        return came


class Hangs(BaseException):
    """Nothing that handles exceptions takes it for a fault of the file."""


@contextmanager
def _no_hanging() -> Iterator[None]:
    """Raise ``Hangs`` in what runs for a minute."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: object) -> None:
        raise Hangs

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, HANGS_AFTER)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(
    params=[
        pytest.param((QUICK, 0), id="quick"),
        *(
            pytest.param((PART, number), id=f"part{number:02}", marks=pytest.mark.fuzz)
            for number in range(1, PARTS + 1)
        ),
    ]
)
def survive(request: pytest.FixtureRequest) -> Survive:
    """``survive(content, change, use)`` as often as this form of the test asks for."""
    return Survive(*request.param)


@pytest.fixture(autouse=True)
def two_gigabytes() -> Iterator[None]:
    """Let this process take two gigabytes more, so that a huge size is refused to it at once."""
    resource = pytest.importorskip("resource")
    pages = Path("/proc/self/statm")
    if not pages.is_file():  # only Linux keeps to the limit
        yield
        return
    taken = int(pages.read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + (2 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)
