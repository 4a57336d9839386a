"""The engine file: whole it comes back as it was; anything else is an error, never a crash."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from spikeformers.engine import (
    Description,
    Engine,
    NeuronSpec,
    NormSpec,
    Packed,
    huge_pages,
    is_engine_file,
    load,
    read,
    write,
)
from spikeformers.engine.file import PIECE
from spikeformers.errors import CheckpointError, SpikeformersError, StorageError, UsageError
from spikeformers.export import pack

Make = Callable[..., Any]


@pytest.fixture(scope="module", params=["fp32", "int8", "int4"])
def packed(request: pytest.FixtureRequest, make_model: Make) -> Packed:
    return pack(make_model(), None, request.param)


@pytest.fixture
def file(packed: Packed, tmp_path: Path) -> Path:
    path = tmp_path / "model.engine"
    assert write(packed, path) == path.stat().st_size
    return path


def rewritten(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The same data under a changed header, its checksum made right again."""
    import hashlib

    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    change(header)
    header["__metadata__"]["sha256"] = "0" * 64
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64)
    digest = hashlib.sha256(text + raw[8 + length :]).hexdigest()
    text = text.replace(b"0" * 64, digest.encode(), 1)
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])
    return path


def test_what_was_written_is_read(packed: Packed, file: Path) -> None:
    reread = read(file)
    assert (reread.description, reread.config, reread.weights) == (
        json.loads(json.dumps(packed.description)),
        packed.config,
        packed.weights,
    )
    assert reread.tensors.keys() == packed.tensors.keys()
    for name, tensor in packed.tensors.items():
        assert reread.tensors[name].dtype == tensor.dtype
        assert (reread.tensors[name] == tensor).all()
    wanted, engine = Engine(packed, threads=1), load(file, threads=1)
    logits = [one.feed(one.sequence(), [3, 1, 4, 1, 5]) for one in (wanted, engine)]
    assert (logits[0] == logits[1]).all()
    assert is_engine_file(file)
    assert not is_engine_file(file.parent)


def test_it_is_a_safetensors_file(packed: Packed, file: Path) -> None:
    tensors = load_file(file)
    assert all((tensors[name] == tensor).all() for name, tensor in packed.tensors.items())


def test_any_truncation_is_an_error(file: Path) -> None:
    whole = file.read_bytes()
    draw = random.Random(1)
    for size in {0, 1, 7, 8, 9, 100, len(whole) - 1, *draw.sample(range(len(whole)), 40)}:
        file.write_bytes(whole[:size])
        with pytest.raises(CheckpointError):
            load(file)
    file.write_bytes(whole + b"\0")
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        load(file)


def test_any_changed_byte_is_an_error(file: Path) -> None:
    whole = file.read_bytes()
    draw = random.Random(2)
    for at in [*range(0, 400, 7), *draw.sample(range(len(whole)), 150)]:
        changed = bytearray(whole)
        changed[at] ^= 1 << draw.randrange(8)
        file.write_bytes(bytes(changed))
        with pytest.raises(CheckpointError):
            load(file)


def test_another_version_is_named(file: Path) -> None:
    rewritten(file, lambda header: header["__metadata__"].update(version="2"))
    with pytest.raises(CheckpointError, match=r"version 2 .* reads 1"):
        load(file)


KINDS = ("wd", "bispikclm", "converted-ssa", "converted-cwssa", "converted-kept")


@pytest.mark.parametrize("kind", KINDS)
def test_a_description_of_nonsense_is_an_error(
    kind: str, make_model: Make, make_other: Make, tmp_path: Path
) -> None:
    """Behind a right checksum: the native program checks every shape, kind and order."""
    packed = pack(make_model() if kind == "wd" else make_other(kind), None, "int8")
    file = tmp_path / "model.engine"
    write(packed, file)
    whole = file.read_bytes()
    draw = random.Random(3)
    values: list[Any] = [-1, 0, 1, 7, 1 << 40, 1e308, "x", "y", "qkv", "none", None, [], {}, True]
    refused = 0
    for _ in range(150):
        description = json.loads(json.dumps(packed.description))
        part = draw.choice([description["buffers"], description["operations"]])
        kind = draw.randrange(4)
        if kind == 0:
            part.pop(draw.randrange(len(part)))
        elif kind == 1:
            first, second = draw.sample(range(len(part)), 2)
            part[first], part[second] = part[second], part[first]
        else:
            one = draw.choice(part)
            inner = (
                one[draw.choice([k for k in one if isinstance(one[k], dict)] or ["x"])]
                if kind == 3 and any(isinstance(v, dict) for v in one.values())
                else one
            )
            inner[draw.choice(list(inner))] = draw.choice(values)
        file.write_bytes(whole)
        text = json.dumps(description)
        rewritten(file, lambda header, text=text: header["__metadata__"].update(description=text))
        try:
            engine = load(file, threads=1)
            engine.feed(engine.sequence(), [1, 2, 3])  # some changes are harmless
        except SpikeformersError:
            refused += 1
    assert refused > 60


def test_data_that_are_not_aligned_are_refused(file: Path) -> None:
    raw = file.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header, data = raw[8 : 8 + length] + b" ", raw[8 + length :]
    file.write_bytes(len(header).to_bytes(8, "little") + header + data)
    with pytest.raises(CheckpointError, match="not aligned"):
        load(file)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(
    value: float, packed: Packed, file: Path, tmp_path: Path
) -> None:
    """By name: when they are written, and, in a file of other hands, wherever they lie in it."""
    tensors = {name: tensor.copy() for name, tensor in packed.tensors.items()}
    tensors["norm.weight"][0] = value
    with pytest.raises(CheckpointError, match=r"tensor 'norm\.weight' holds values"):
        write(replace(packed, tensors=tensors), tmp_path / "x")
    assert not (tmp_path / "x").exists()
    whole = file.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    for name, entry in header.items():
        if name == "__metadata__" or entry["dtype"] != "F32":
            continue
        begin, end = entry["data_offsets"]
        for at in (begin, end - 4):
            changed = bytearray(whole)
            changed[8 + length + at : 8 + length + at + 4] = np.float32(value).tobytes()
            file.write_bytes(changed)
            rewritten(file, lambda header: None)
            with pytest.raises(CheckpointError, match=f"tensor '{name}' holds values"):
                load(file)


def test_values_at_the_seams_of_what_is_read_are_checked(tmp_path: Path) -> None:
    """A file is read in pieces of 1 MiB: the last value of one, the first of the next, the last."""
    values = 5 * PIECE // 8  # two pieces and a half, of float32
    for at in (PIECE // 4 - 1, PIECE // 4, values - 1):
        tensors = {"a": np.zeros(7, np.float32), "b": np.zeros(values - 7, np.float32)}
        write(Packed({}, tensors, {}, {}, "fp32"), tmp_path / "x")
        raw = bytearray((tmp_path / "x").read_bytes())
        place = len(raw) - 4 * (values - at)
        raw[place : place + 4] = np.float32(np.nan).tobytes()
        (tmp_path / "x").write_bytes(raw)
        rewritten(tmp_path / "x", lambda header: None)
        with pytest.raises(CheckpointError, match="tensor 'b' holds values"):
            read(tmp_path / "x")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"description": "{"}, "description in its header is not valid JSON"),
        ({"description": "[" * 100_000}, "description in its header is not valid JSON"),
        ({"description": "[]"}, "description in its header holds a list where an object"),
        ({"config": "3"}, "config in its header holds a number where an object"),
        ({"config": "{}"}, "max_position_embeddings is None; it must be a whole number"),
        ({"config": '{"max_position_embeddings": Infinity}'}, "is inf; it must be a whole number"),
        ({"config": '{"max_position_embeddings": 0}'}, "is 0; it must be a whole number from 1"),
        ({"tokenizer": "null"}, "tokenizer in its header holds null where an object"),
        ({"tokenizer": '{"rules": 3}'}, "its tokenizer is malformed"),
        ({"tokenizer": '{"eos": "x"}'}, "its tokenizer is malformed"),
        ({"tokenizer": '{"chat_template": ["x"]}'}, "its tokenizer is malformed"),
        ({"weights": 3}, "its header lacks one of"),
    ],
)
def test_metadata_of_other_hands_are_refused_by_name(
    change: dict[str, Any], said: str, file: Path
) -> None:
    rewritten(file, lambda header: header["__metadata__"].update(change))
    with pytest.raises(CheckpointError, match=said):
        load(file)


def test_entries_of_other_hands_are_refused_by_name(file: Path) -> None:
    whole = file.read_bytes()
    changes: list[dict[str, Any]] = [{"dtype": ["F32"]}, {"dtype": {}}, {"shape": [1] * 70}]
    changes += [{"shape": [0, 2**47]}, {"shape": 3}, {"data_offsets": [0]}, {"dtype": "F64"}]
    for change in changes:
        file.write_bytes(whole)
        rewritten(file, lambda header, change=change: header["norm.weight"].update(change))
        with pytest.raises(CheckpointError, match=r"entry of tensor 'norm\.weight' is malformed"):
            load(file)


RESIDENT = """
import re, sys
from spikeformers.engine import load

def resident():
    text = open("/proc/self/smaps").read()
    part = text[text.index(sys.argv[1]):]
    return 1024 * int(re.search(r"Rss: +([0-9]+) kB", part)[1])

engine = load(sys.argv[1], threads=1, huge_pages=False)
opened = resident()
engine.advance(engine.sequence(), 0)
print(opened, resident())
"""


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("weights", ["fp32", "int8"])
def test_what_never_fires_is_never_resident(weights: str, tmp_path: Path) -> None:
    """Of a matrix of 32 MiB the one row whose input fires: opening the file touches none of it."""
    to = Description(vocabulary=4)
    to.real("x", 2048)
    to.spikes("s", 2048, NeuronSpec("integer", levels=1))
    to.real("y", 4096)
    to.real("last", 4096)
    to.real("logits", 4)
    to.embed("x", "table", by_column=False)
    to.fire("x", "s", NormSpec())
    to.linear("s", "y", "large")
    to.select("y", "last")
    to.linear("last", "logits", "head")
    to.finish("logits")
    table = np.zeros((4, 2048), np.float32)
    table[0, 1000] = 1
    large = np.ones((2048, 4096), np.float32)
    tensors: dict[str, Any] = {"table": table, "head": np.ones((4096, 4), np.float32)}
    if weights == "fp32":
        tensors["large"] = large
    else:
        tensors["large"], tensors["large.scale"] = large.astype(np.int8), large[0]
        tensors["unread"] = np.ones((24, 1 << 20), np.int8)
    config = {"max_position_embeddings": 8}
    file = tmp_path / "model.engine"
    size = write(Packed(asdict(to), tensors, config, {}, weights), file)
    assert size > 32 << 20
    done = subprocess.run(
        [sys.executable, "-c", RESIDENT, str(file)], capture_output=True, text=True, check=True
    )
    opened, ran = map(int, done.stdout.split())
    assert opened < size / 8  # a page that is touched may bring 2 MiB of its neighbours
    assert opened <= ran < size / 8


def test_what_is_not_an_engine_file(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes((56).to_bytes(8, "little") + b"{}".ljust(56))
    for path, said in ((other, "not an engine file"), (tmp_path, "cannot be read"), (tmp_path / "no", "cannot be read")):  # fmt: skip  # noqa: E501
        with pytest.raises(CheckpointError, match=said):
            load(path)


def test_a_refused_write_leaves_what_was_there(
    packed: Packed, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = file.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("spikeformers.engine.file.os.replace", full)
    with pytest.raises(StorageError, match="unchanged"):
        write(packed, file)
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.skipif(not huge_pages.available(), reason="this system gives no huge pages")
def test_a_copy_in_huge_pages_runs_as_the_mapped_file_does(file: Path) -> None:
    copied, mapped = read(file, huge_pages=True), read(file, huge_pages=False)
    for name, tensor in mapped.tensors.items():
        assert (copied.tensors[name] == tensor).all()
        assert not copied.tensors[name].flags.writeable
    engines = [load(file, threads=1, huge_pages=chosen) for chosen in (True, False)]
    logits = [engine.feed(engine.sequence(), [3, 1, 4, 1, 5]) for engine in engines]
    assert (logits[0] == logits[1]).all()
    assert engines[0].counters() == engines[1].counters()


def test_a_damaged_file_is_refused_before_its_copy_is_used(file: Path) -> None:
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    with pytest.raises(CheckpointError, match="altered or damaged"):
        read(file, huge_pages=None)


def test_huge_pages_are_taken_where_the_system_gives_them_and_memory_suffices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting, free = tmp_path / "enabled", tmp_path / "meminfo"
    monkeypatch.setattr(huge_pages, "SETTING", setting)
    monkeypatch.setattr(huge_pages, "FREE", free)
    assert not huge_pages.available()  # no such file: not Linux
    setting.write_text("always [madvise] never\n")
    free.write_text("MemTotal: 9000000 kB\nMemAvailable: 40960 kB\n")
    assert huge_pages.worthwhile(10 << 20)
    assert not huge_pages.worthwhile((10 << 20) + 1)  # more than a quarter of 40 MiB
    assert not huge_pages.worthwhile(1 << 20)  # less than a page
    setting.write_text("always madvise [never]\n")
    assert not huge_pages.worthwhile(10 << 20)
    with pytest.raises(UsageError, match="no huge pages"):
        huge_pages.allocate(10 << 20)
