"""What is saved comes back; what is damaged is named; what was there before stays."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from spikeformers.errors import CheckpointError, StorageError
from spikeformers.training import TrainConfig, checkpoint
from spikeformers.training.checkpoint import (
    TrainState,
    checkpoints,
    load_checkpoint,
    load_newest,
    save_checkpoint,
)
from spikeformers.training.distributed import World
from spikeformers.training.optim import make_optimizer

ALONE = World(0, 1, torch.device("cpu"), "single")


def trained(fresh: Any, kind: str = "wd", seed: int = 0) -> tuple[Any, torch.optim.AdamW]:
    """A model and its optimiser after one step."""
    model, store, _ = fresh(kind, seed=seed)
    optimizer = make_optimizer(model, TrainConfig())
    ids = torch.from_numpy(store.split("train").tokens[:32].astype("int64")).view(2, 16)
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    return model, optimizer


def save(folder: Path, pair: tuple[Any, Any], step: int = 1, keep: int = 2) -> Path:
    state = TrainState(step, step * 64, step * 0.5)
    return save_checkpoint(folder, state, *pair, ALONE, keep=keep)


@pytest.mark.parametrize("kind", ["gpt2", "bert", "wd", "we"])
def test_round_trip(kind: str, tmp_path: Path, fresh: Any) -> None:
    model, optimizer = trained(fresh, kind)
    path = save(tmp_path, (model, optimizer))
    other = fresh(kind, seed=1)[0]
    opened = make_optimizer(other, TrainConfig())
    state = load_checkpoint(path, other, opened, ALONE)
    assert (state.step, state.tokens_seen, state.seconds) == (1, 64, 0.5)
    assert all(torch.equal(model.state_dict()[k], v) for k, v in other.state_dict().items())
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    for mine, theirs in pairs:
        assert optimizer.state[mine].keys() == opened.state[theirs].keys()
        for key, value in optimizer.state[mine].items():
            assert torch.equal(value, opened.state[theirs][key]), key


def test_a_parameter_that_got_no_gradient_comes_back_without_state(
    tmp_path: Path, fresh: Any
) -> None:
    model = fresh("wd")[0]
    first = next(model.parameters())
    optimizer = make_optimizer(model, TrainConfig())
    first.grad = torch.ones_like(first)
    optimizer.step()
    path = save(tmp_path, (model, optimizer), step=3)  # its own count is 1
    opened = make_optimizer(model, TrainConfig())
    load_checkpoint(path, model, opened, ALONE)
    assert list(opened.state) == [first]
    assert opened.state[first]["step"] == 1


def test_only_json_and_safetensors_are_written(tmp_path: Path, fresh: Any) -> None:
    path = save(tmp_path, trained(fresh))
    assert sorted(p.suffix for p in path.iterdir()) == [".json", ".safetensors"]
    (shard,) = path.glob("*.safetensors")
    assert any(name.endswith(".exp_avg_sq") for name in load_file(shard))


def test_the_newest_are_kept_and_the_incomplete_ignored(tmp_path: Path, fresh: Any) -> None:
    pair = trained(fresh)
    for step in (5, 90, 100):
        save(tmp_path, pair, step)
    (tmp_path / ".tmp-step-0000200").mkdir()
    (tmp_path / "step-0000300").mkdir()  # no checkpoint.json
    assert [p.name for p in checkpoints(tmp_path)] == ["step-0000090", "step-0000100"]
    save(tmp_path, pair, 110, keep=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-0000110", "step-0000300"]


def test_saving_the_same_step_again_replaces_it(tmp_path: Path, fresh: Any) -> None:
    model, optimizer = trained(fresh)
    save(tmp_path, (model, optimizer))
    with torch.no_grad():
        next(model.parameters()).fill_(0.5)
    path = save(tmp_path, (model, optimizer))
    (shard,) = path.glob("*.safetensors")
    name = next(name for name, _ in model.named_parameters())
    assert (load_file(shard)[f"model.{name}"] == 0.5).all()


def test_a_truncated_file_is_named_and_the_last_good_one_too(tmp_path: Path, fresh: Any) -> None:
    pair = trained(fresh)
    save(tmp_path, pair, 1)
    path = save(tmp_path, pair, 2)
    (shard,) = path.glob("*.safetensors")
    size = shard.stat().st_size
    with shard.open("r+b") as file:
        file.truncate(size - 10)
    with pytest.raises(CheckpointError) as raised:
        load_checkpoint(path, *pair, ALONE)
    message = str(raised.value)
    assert f"{shard} is {size - 10} bytes instead of {size}" in message
    assert load_newest(tmp_path, *pair, ALONE).step == 1


def test_altered_bytes_are_found(tmp_path: Path, fresh: Any) -> None:
    pair = trained(fresh)
    path = save(tmp_path, pair)
    (shard,) = path.glob("*.safetensors")
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"altered in its content .SHA-256 differs"):
        load_checkpoint(path, *pair, ALONE)


def test_missing_foreign_and_unreadable_files(tmp_path: Path, fresh: Any) -> None:
    pair = trained(fresh)
    path = save(tmp_path, pair)
    (shard,) = path.glob("*.safetensors")
    shutil.copy(shard, path / "shard-99.safetensors")
    with pytest.raises(CheckpointError, match=r"shard-99.safetensors is not a part"):
        load_checkpoint(path, *pair, ALONE)
    shard.unlink()
    with pytest.raises(CheckpointError, match=f"{shard.name} is missing"):
        load_checkpoint(path, *pair, ALONE)
    record = path / "checkpoint.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"format_version": 99}))
    with pytest.raises(CheckpointError, match="format 99; this version reads format 1"):
        load_checkpoint(path, *pair, ALONE)
    record.write_bytes(b"\x80\x04pickle")
    with pytest.raises(CheckpointError, match=r"checkpoint\.json cannot be read: the byte 0x80"):
        load_checkpoint(path, *pair, ALONE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": None}, "'step' is missing"),
        ({"step": "two"}, "step is 'two'; it must be a whole number"),
        ({"files": []}, r"files is \[\]; it must be a mapping"),
        ({"files": {"shard.safetensors": {"bytes": 3}}}, "shard.safetensors.*'sha256' is missing"),
        ({"files": {"../x": {"bytes": 3, "sha256": ""}}}, "SHA-256 differs"),
        ({"optimizer_steps": {"a": 0.5}}, "a mapping of names to whole numbers"),
        ({"format_version": None}, "'format_version' is missing"),
    ],
    ids=str,
)
def test_a_record_with_foreign_values_is_refused(
    tmp_path: Path, fresh: Any, change: dict[str, Any], message: str
) -> None:
    pair = trained(fresh)
    path = save(tmp_path, pair)
    record = path / "checkpoint.json"
    values = json.loads(record.read_text()) | change
    record.write_text(
        json.dumps({key: value for key, value in values.items() if value is not None})
    )
    with pytest.raises(CheckpointError, match=f"Damaged checkpoint: .*{message}"):
        load_checkpoint(path, *pair, ALONE)


def test_another_models_checkpoint_is_refused_before_anything_changes(
    tmp_path: Path, fresh: Any
) -> None:
    path = save(tmp_path, trained(fresh, "gpt2"))
    model = fresh("wd")[0]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match="belongs to another model"):
        load_checkpoint(path, model, make_optimizer(model, TrainConfig()), ALONE)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_a_full_disk_leaves_the_earlier_checkpoint(
    tmp_path: Path, fresh: Any, full_disk: Any
) -> None:
    pair = trained(fresh)
    good = save(tmp_path, pair, 1)
    content = {p.name: p.read_bytes() for p in good.iterdir()}
    with full_disk(), pytest.raises(StorageError, match=r"step-0000002.*last good one is .*0001"):
        save(tmp_path, pair, 2)
    assert [p.name for p in tmp_path.iterdir()] == [good.name]
    assert {p.name: p.read_bytes() for p in good.iterdir()} == content
    assert load_checkpoint(good, *pair, ALONE).step == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_only_the_disk_is_called_a_storage_error(
    error: type[BaseException], tmp_path: Path, fresh: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = trained(fresh)
    good = save(tmp_path, pair, 1)

    def interrupted(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(checkpoint.HuggingFaceStorageWriter, "write_data", interrupted)
    with pytest.raises(error):
        save(tmp_path, pair, 2)
    assert checkpoints(tmp_path) == [good]
    monkeypatch.undo()
    save(tmp_path, pair, 2)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["step-0000001", "step-0000002"]


def cut(path: Path) -> None:
    (shard,) = path.glob("*.safetensors")
    with shard.open("r+b") as file:
        file.truncate(shard.stat().st_size - 10)


def flip(path: Path) -> None:
    (shard,) = path.glob("*.safetensors")
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)


def lose(path: Path) -> None:
    (shard,) = path.glob("*.safetensors")
    shard.unlink()


def edited(**changes: Any) -> Callable[[Path], None]:
    """Change values of checkpoint.json; None takes a key away."""

    def edit(path: Path) -> None:
        record = json.loads((path / "checkpoint.json").read_text()) | changes
        record = {key: value for key, value in record.items() if value is not None}
        (path / "checkpoint.json").write_text(json.dumps(record))

    return edit


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut off": (cut, r"safetensors is \d+ bytes instead of"),
    "a flipped bit": (flip, r"safetensors is altered in its content"),
    "a lost shard": (lose, "safetensors is missing"),
    "no record": (lambda path: (path / "checkpoint.json").unlink(), "cannot be read: No such file"),
    "foreign bytes": (
        lambda path: (path / "checkpoint.json").write_bytes(b"\xff\x00"),
        "the byte 0xff at offset 0",
    ),
    "a list": (
        lambda path: (path / "checkpoint.json").write_text("[]"),
        "holds a list where an object",
    ),
    "a key is gone": (edited(step=None, sha256=None), "'step' is missing"),
    "a digit changed": (edited(tokens_seen=65), "is altered in its content"),
    "another step": (edited(step=7, sha256=None), "is of step 7"),
    "text for a number": (edited(tokens_seen="64", sha256=None), "tokens_seen is '64'"),
    "a path": (
        edited(files={"../x": {"bytes": 1, "sha256": ""}}, sha256=None),
        "names a file elsewhere",
    ),
    "no files": (edited(files={}, sha256=None), "names no file"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_last_checkpoint_is_passed_over_and_set_aside(
    kind: str, tmp_path: Path, fresh: Any, caplog: pytest.LogCaptureFixture
) -> None:
    damage, why = DAMAGE[kind]
    pair = trained(fresh)
    save(tmp_path, pair, 1)
    weights = {name: value.clone() for name, value in pair[0].state_dict().items()}
    with torch.no_grad():
        next(pair[0].parameters()).fill_(0.5)
    damage(save(tmp_path, pair, 2))
    assert load_newest(tmp_path, *pair, ALONE).step == 1
    assert all(torch.equal(weights[k], v) for k, v in pair[0].state_dict().items())
    (record,) = (entry for entry in caplog.records if entry.name == checkpoint.__name__)
    assert record.levelname == "WARNING"
    assert re.search(why, record.getMessage())
    assert "Resuming from step-0000001 instead" in record.getMessage()
    names = ["damaged-step-0000002", "step-0000001"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    save(tmp_path, pair, 3, keep=1)  # keeps the newest whole one, and what is damaged
    assert sorted(path.name for path in tmp_path.iterdir()) == [names[0], "step-0000003"]


def test_where_every_checkpoint_is_damaged_each_is_named_and_nothing_is_touched(
    tmp_path: Path, fresh: Any
) -> None:
    pair = trained(fresh)
    cut(save(tmp_path, pair, 1))
    lose(save(tmp_path, pair, 2))
    before = {name: value.clone() for name, value in pair[0].state_dict().items()}
    with pytest.raises(CheckpointError, match=r"No checkpoint in .* is whole") as raised:
        load_newest(tmp_path, *pair, ALONE)
    assert "step-0000001" in str(raised.value)
    assert "bytes instead of" in str(raised.value)
    assert "step-0000002" in str(raised.value)
    assert "is missing" in str(raised.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-0000001", "step-0000002"]
    assert all(torch.equal(before[k], v) for k, v in pair[0].state_dict().items())


def test_a_checkpoint_of_another_version_is_not_taken_for_a_damaged_one(
    tmp_path: Path, fresh: Any
) -> None:
    pair = trained(fresh)
    save(tmp_path, pair, 1)
    edited(format_version=99)(save(tmp_path, pair, 2))
    with pytest.raises(CheckpointError, match="format 99; this version reads format 1"):
        load_newest(tmp_path, *pair, ALONE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-0000001", "step-0000002"]


def test_a_record_without_a_digest_of_its_own_as_older_versions_wrote_it_loads(
    tmp_path: Path, fresh: Any
) -> None:
    pair = trained(fresh)
    edited(sha256=None)(save(tmp_path, pair, 4))
    assert load_newest(tmp_path, *pair, ALONE).step == 4
