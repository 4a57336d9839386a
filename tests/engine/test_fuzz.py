"""Engine files changed at random, their checksums made right: an error, or logits, never worse.

`tests/kernels/test_sanitizers.py` runs these once more where each access and overflow is watched.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spikeformers.engine import load, write
from spikeformers.errors import SpikeformersError
from spikeformers.export import pack
from spikeformers.kernels import native

Make = Callable[..., Any]

CONVERTED = tuple(f"converted-{how}" for how in ("ssa", "cwssa", "kept", "token", "gemma3"))
KINDS = ("wd", "bispikclm", *CONVERTED)
PATHS = [name for name, runs, _ in native().paths() if runs]
NAN, INF = float("nan"), float("inf")
REALS = (0.0, -0.0, 0.5, -1.0, 1e-45, 1e-38, 1e-30, 1e-7, 1e7, 1e30, 3.4e38, -3.4e38, NAN, INF)
VALUES: list[Any] = [
    *(-1, 0, 1, 2, 3, 7, 63, 64, 65, 127, 128, 1000, 4096, 4097, 32767, 32768),
    *(2**31 - 1, 2**31, -(2**31), 2**32, 2**40, 2**63, 2**70, *REALS, 1e39, 1e308, -INF),
    *("", "x", "y", "none", "layer", "rms", "ssa", "softmax", "powers", "winners", "head"),
    *("binary", "integer", "ternary", "soft", "hard", "delayed", "set", "add", "or", "gelu_erf"),
    *(None, True, False, [], {}),
]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture
def originals(kind: str, make_model: Make, make_other: Make, tmp_path: Path) -> list[bytes]:
    """One file for each kind of weights."""
    model = make_model(wta="top_k") if kind == "wd" else make_other(kind)
    path = tmp_path / "model.engine"
    files = []
    for weights in ("fp32", "int8", "int4"):
        write(pack(model, None, weights), path)
        files.append(path.read_bytes())
    return files


def sealed(header: dict[str, Any], data: bytes) -> bytes:
    header["__metadata__"]["sha256"] = "0" * 64
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64)
    digest = hashlib.sha256(text + data).hexdigest()
    text = text.replace(b"0" * 64, digest.encode(), 1)
    return len(text).to_bytes(8, "little") + text + data


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of a nested value, as its container and the key in it."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from places(value[key])


def mutate_values(draw: random.Random, root: Any) -> None:
    """Change, drop, double or exchange one thing in it."""
    container, key = draw.choice(list(places(root)))
    change = draw.randrange(8)
    if change == 0:
        container.pop(key)
    elif change == 1 and isinstance(container, list):
        container.insert(draw.randrange(len(container) + 1), json.loads(json.dumps(container[key])))
    elif change <= 3:
        other, there = draw.choice(list(places(root)))
        first, second = json.dumps(container[key]), json.dumps(other[there])
        container[key], other[there] = json.loads(second), json.loads(first)
    else:
        container[key] = draw.choice(VALUES)


def mutate_data(draw: random.Random, header: dict[str, Any], data: bytearray) -> None:
    """Give one tensor, or one number of it, a value from the edge of what its type holds."""
    name = draw.choice([name for name in header if name != "__metadata__"])
    begin, end = header[name]["data_offsets"]
    if header[name]["dtype"] == "F32":
        values = np.frombuffer(data, np.float32, (end - begin) // 4, begin)
        value: Any = np.float32(draw.choice(REALS))
    else:
        values = np.frombuffer(data, np.int8, end - begin, begin)
        value = draw.choice([-128, -127, 0, 1, 127])
    if draw.randrange(2):
        values[draw.randrange(len(values))] = value
    else:
        values[:] = value


def mutant(draw: random.Random, whole: bytes) -> bytes:
    length = int.from_bytes(whole[:8], "little")
    header, data = json.loads(whole[8 : 8 + length]), bytearray(whole[8 + length :])
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        part = draw.choice(["description"] * 6 + ["data"] * 4 + ["config", "tokenizer", "header"])
        if part == "data":
            mutate_data(draw, json.loads(whole[8 : 8 + length]), data)
        elif part == "header":
            mutate_values(draw, {name: header[name] for name in header if name != "__metadata__"})
        else:
            inner = [json.loads(header["__metadata__"][part])]
            mutate_values(draw, inner)
            header["__metadata__"][part] = json.dumps(inner[0] if inner else None)
    return sealed(header, bytes(data))


def answer(file: Path, path: str, tokens: list[int]) -> bytes | None:
    """The bits of what it says, or None where it is refused."""
    try:
        engine = load(file, threads=2, kernels=path)
        text = engine.sequence()
        logits = [engine.feed_all(text, tokens), engine.step([text, engine.sequence()], [1, 2])]
        last = engine.advance(text, 3)
    except SpikeformersError:
        return None
    assert all(np.isfinite(some).all() for some in logits)
    assert text.tokens == len(tokens) + 2
    assert text.bytes >= 0
    for buffer in engine.packed.description["buffers"]:
        engine.values(buffer["name"])
    return b"".join(some.tobytes() for some in logits) + last.to_bytes(8, "little")


def check(originals: list[bytes], file: Path, cases: int) -> None:
    draw = random.Random(5)
    answered = refused = 0
    for _ in range(cases):
        file.write_bytes(mutant(draw, draw.choice(originals)))
        tokens = [draw.randrange(61) for _ in range(draw.choice([1, 3, 5, 70]))]
        answers = {answer(file, path, tokens) for path in PATHS}
        assert len(answers) == 1  # every path says the same, or refuses
        answered += answers != {None}
        refused += answers == {None}
    assert answered > cases / 20
    assert refused > cases / 5


def test_a_changed_file_is_refused_or_answers_alike_on_every_path(
    originals: list[bytes], tmp_path: Path
) -> None:
    check(originals, tmp_path / "model.engine", 40)


@pytest.mark.slow
def test_three_thousand_changed_files(originals: list[bytes], tmp_path: Path) -> None:
    check(originals, tmp_path / "model.engine", 600)
