"""A cached teacher says what the teacher says, and nothing half written counts."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from spikeformers.errors import ConfigError, StorageError
from spikeformers.training import train
from spikeformers.training.distillation import Distillation, SpADConfig, cache
from spikeformers.training.distillation.cache import TeacherCache
from spikeformers.training.distillation.teacher import Needs, Teacher, TeacherOutput
from spikeformers.training.journal import read_metrics

ALL = Needs((1, 3), embedding=True, attentions=True, features=True, logits=True)
FEW = Needs((1, 3), logits=True)
IDS = torch.arange(64).view(4, 16)
STARTS = np.array([5, 700, 21, 33])


@pytest.fixture
def teacher(dense: Any, causal: Any) -> Teacher:
    return Teacher(dense(causal.tokenizer, n_layer=3))


@pytest.fixture
def opened(teacher: Teacher, tmp_path: Path) -> Callable[..., TeacherCache]:
    def make(needs: Needs = ALL, **identity: Any) -> TeacherCache:
        return TeacherCache(str(tmp_path / "cache"), teacher, needs, {"text": "x"} | identity, 16)

    return make


def same(first: TeacherOutput, second: TeacherOutput) -> bool:
    def flat(out: TeacherOutput) -> list[torch.Tensor]:
        return [t for part in out for t in (part if isinstance(part, tuple) else [part])]

    return all(torch.equal(a, b) for a, b in zip(flat(first), flat(second), strict=True))


def deaf(teacher: Teacher) -> None:
    """Let nobody run the teacher any more; its head still works."""

    def refuse(*_: Any) -> None:
        raise AssertionError("the teacher was run")

    teacher.model.transformer.h[0].register_forward_pre_hook(refuse)


def test_cached_rows_equal_computed_ones(opened: Any, teacher: Teacher) -> None:
    expected = teacher(IDS, ALL)
    first = opened()
    assert same(first(IDS, STARTS), expected)
    first.close()
    again = opened()
    deaf(teacher)
    assert same(again(IDS, STARTS), expected)
    assert torch.equal(again(IDS[1:3], STARTS[1:3]).embedding, expected.embedding[1:3])
    with pytest.raises(AssertionError, match="was run"):
        again(IDS, STARTS + 1)


def test_the_last_layer_is_stored_once(opened: Any) -> None:
    parts = opened().parts  # layer 3 of 3 is what goes into the head
    assert set(parts) == {"head", "embedding", "hidden-1", "attention-1", "attention-3"}
    assert [tuple(parts[name].shape) for name in ("head", "attention-1")] == [(16, 16), (2, 16, 16)]


def test_half_precision_is_stored_as_it_is(teacher: Teacher, tmp_path: Path) -> None:
    teacher.model.to(torch.bfloat16)
    expected = teacher(IDS, ALL)
    for _ in range(2):
        cache = TeacherCache(str(tmp_path), teacher, ALL, {}, 16)
        assert same(cache(IDS, STARTS), expected)
        cache.close()


def test_a_run_that_needs_less_uses_the_cache_of_one_that_needs_more(
    opened: Any, teacher: Teacher
) -> None:
    with_all = opened()
    with_all(IDS, STARTS)
    with_all.close()
    expected = teacher(IDS, FEW)
    less = opened(FEW)
    deaf(teacher)
    assert torch.equal(less(IDS, STARTS).logits, expected.logits)


def test_rows_that_were_not_committed_are_computed_again(
    opened: Any, teacher: Teacher, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cache = opened()
    cache(IDS[:2], STARTS[:2])
    cache.commit()
    cache(IDS[2:], STARTS[2:])  # and then the process dies
    for part in cache.parts.values():
        part.close()
    os.close(cache._lock)
    rows, starts = (tmp_path / "cache" / "head" / f"000.{kind}" for kind in ("rows", "starts"))
    assert rows.stat().st_size == 4 * 16 * 16 * 4
    assert starts.stat().st_size == 2 * 16
    starts.write_bytes(starts.read_bytes() + b"\x07\x00")  # half a start
    again = opened()
    assert set(again.parts["head"].index) == {5, 700}
    assert same(again(IDS, STARTS), teacher(IDS, ALL))
    again.close()
    assert np.fromfile(starts, "<i8")[::2].tolist() == [5, 700, 21, 33]


def test_rows_that_the_disk_lost_do_not_count(opened: Any, tmp_path: Path) -> None:
    cache = opened()
    cache(IDS, STARTS)
    cache.close()
    rows = tmp_path / "cache" / "embedding" / "000.rows"
    os.truncate(rows, 2 * 16 * 16 * 4 + 10)
    assert set(opened().parts["embedding"].index) == {5, 700}


def test_two_processes_write_files_of_their_own(opened: Any, teacher: Teacher) -> None:
    first, second = opened(), opened()
    first(IDS[:2], STARTS[:2])
    second(IDS[2:], STARTS[2:])
    first.close()
    second.close()
    expected = teacher(IDS, ALL)
    third = opened()
    deaf(teacher)
    assert same(third(IDS, STARTS), expected)


def test_the_cache_of_another_teacher_is_refused(opened: Any) -> None:
    opened(teacher_sha256="aa").close()
    with pytest.raises(
        ConfigError, match=r"another teacher or another text.*teacher_sha256 is 'aa', not 'bb'"
    ):
        opened(teacher_sha256="bb")


def test_a_folder_with_other_things_is_refused(teacher: Teacher, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("x")
    with pytest.raises(ConfigError, match="holds other things than a teacher cache"):
        TeacherCache(str(tmp_path), teacher, ALL, {}, 16)


def test_auto_names_a_folder_by_its_identity(
    teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPIKEFORMERS_CACHE", str(tmp_path))
    names = [TeacherCache("auto", teacher, ALL, {"t": t}, 16).folder.name for t in "aba"]
    assert names[0] == names[2] != names[1]
    assert names[0].startswith("teacher-")


def test_it_reports_the_size_and_refuses_a_disk_without_room(
    opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher_cache = opened(FEW)
    teacher_cache(IDS, STARTS)
    summary = teacher_cache.plan([5, 21, 33, 44, 55, 55])
    assert "3 of 5 windows are there; the others take 2.05 kB (1.02 kB each)" in summary
    small = SimpleNamespace(free=2000)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: small)
    with pytest.raises(StorageError, match=r"2 kB are free. Leave cache_teacher out"):
        teacher_cache.plan([5, 21, 33, 44, 55])


def test_a_full_disk_is_a_storage_error(opened: Any, full_disk: Any) -> None:
    cache = opened()
    with full_disk(100), pytest.raises(StorageError, match="Rows that were committed stay valid"):
        cache(IDS, STARTS)


def test_logits_that_are_more_than_the_heads_are_refused(teacher: Teacher, tmp_path: Path) -> None:
    plain = teacher.model.forward

    def capped(*args: Any, **given: Any) -> Any:
        out = plain(*args, **given)
        out["logits"] = torch.tanh(out["logits"])
        return out

    teacher.model.forward = capped
    with pytest.raises(ConfigError, match=r"more to its logits.*Leave cache_teacher out"):
        TeacherCache(str(tmp_path), teacher, ALL, {}, 16)
    TeacherCache(str(tmp_path), teacher, Needs((1,), features=True), {}, 16)


def test_training_has_the_same_losses_with_and_without(
    fresh: Any, dense: Any, causal: Any, config: Any, tmp_path: Path
) -> None:
    """Bit for bit: computed, while the cache fills, and read from it."""

    def losses(name: str, where: str) -> list[dict[str, Any]]:
        model, store, tokenizer = fresh("wd")
        task = Distillation(model, dense(tokenizer, n_embd=24), SpADConfig(), 0, where)
        train(model, store, tokenizer, tmp_path / name, config(), task=task, progress=False)
        lines = read_metrics(tmp_path / name / "metrics.jsonl")
        times = ("seconds", "tokens_per_second")
        return [{k: v for k, v in line.items() if k not in times} for line in lines]

    folder = tmp_path / "cache"
    plain = losses("plain", "")
    assert losses("filling", str(folder)) == plain
    sizes = {path: path.stat().st_size for path in folder.rglob("*.rows")}
    assert losses("reading", str(folder)) == plain
    assert {path: path.stat().st_size for path in folder.rglob("*.rows")} == sizes
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["context"] == 16
    shutil.rmtree(folder)


@pytest.mark.parametrize("cut", [False, True])
def test_a_row_that_was_altered_or_cut_off_is_named_and_computed_again(
    cut: bool, opened: Any, teacher: Teacher, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = teacher(IDS, ALL)
    first = opened()
    first(IDS, STARTS)
    first.close()
    rows = tmp_path / "cache" / "hidden-1" / "000.rows"
    content = bytearray(rows.read_bytes())
    content[-5] ^= 1  # in the row of the window at 33
    rows.write_bytes(content[:-8] + bytes(8) if cut else content)
    again = opened()
    assert same(again(IDS[:3], STARTS[:3]), TeacherOutput(*(_first(part, 3) for part in expected)))
    assert "is not what was written" not in caplog.text
    assert same(again(IDS, STARTS), expected)
    assert "hidden-1 of a window at one of [5, 700, 21, 33] is not what was written" in caplog.text
    again.close()
    mended = opened()
    deaf(teacher)
    assert same(mended(IDS, STARTS), expected)
    mended.close()


def _first(part: Any, count: int) -> Any:
    return tuple(tensor[:count] for tensor in part) if isinstance(part, tuple) else part[:count]
