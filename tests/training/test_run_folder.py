"""Who may begin, who may resume, and the exported model."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from spikeformers.errors import CheckpointError, ConfigError, StorageError, UsageError
from spikeformers.training.distributed import World
from spikeformers.training.run_folder import RUN_FILES, export, open_run, run_record

ALONE = World(0, 1, torch.device("cpu"), "single")


@pytest.fixture
def record(fresh: Any, config: Any) -> dict[str, Any]:
    model, store, _ = fresh("wd")
    return run_record(model, store.manifest, config())


def begun(out: Path, record: dict[str, Any]) -> Path:
    open_run(out, record, ALONE, resume=False)
    return out


def test_the_record_describes_the_run(tmp_path: Path, record: dict[str, Any], fresh: Any) -> None:
    begun(tmp_path / "a" / "b", record)
    saved = json.loads((tmp_path / "a" / "b" / "run.json").read_text())
    assert saved["config"]["learning_rate"] == 1e-2
    assert saved["model"]["model_type"] == "wd_spikingformer"
    assert saved["model"]["hidden_size"] == 16
    assert saved["data"]["corpus"]["digest"] == fresh("wd")[1].manifest["corpus"]["digest"]
    assert saved["parameters"] == sum(p.numel() for p in fresh("wd")[0].parameters())
    assert saved["versions"]["torch"] == str(torch.__version__)


@pytest.mark.parametrize("name", RUN_FILES)
def test_a_taken_folder_is_refused_and_left_alone(
    name: str, tmp_path: Path, record: dict[str, Any]
) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(UsageError, match=rf"already holds a run \({name}\).*--resume.*--out"):
        open_run(tmp_path, record, ALONE, resume=False)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(name, "mine")]


def test_other_files_do_not_take_a_folder(tmp_path: Path, record: dict[str, Any]) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert open_run(tmp_path, record, ALONE, resume=False) is False


def test_nothing_to_resume(tmp_path: Path, record: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"Nothing to resume.*without --resume"):
        open_run(tmp_path, record, ALONE, resume=True)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"run\.json is not valid JSON"):
        open_run(tmp_path, record, ALONE, resume=True)


def test_a_run_killed_before_its_first_checkpoint_begins_again(
    tmp_path: Path, record: dict[str, Any]
) -> None:
    assert open_run(begun(tmp_path, record), record, ALONE, resume=True) is False


@pytest.mark.parametrize(
    "change",
    [{"steps": 7}, {"tokens": 64}, {"learning_rate": 0.5}, {"seed": 1}, {"precision": "bf16"}],
)
def test_a_changed_hyper_parameter_is_named(
    change: dict[str, Any], tmp_path: Path, record: dict[str, Any]
) -> None:
    begun(tmp_path, record)
    ((key, value),) = change.items()
    was = record["config"][key]
    with pytest.raises(ConfigError, match=f"{key} was {was!r}, now {value!r}"):
        open_run(tmp_path, record | {"config": record["config"] | change}, ALONE, resume=True)


def test_harmless_changes_pass_and_rounding_changes_are_reported(
    tmp_path: Path, record: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    begun(tmp_path, record)
    harmless = {"eval_every": 1, "eval_batches": 9, "log_every": 3, "save_every": 4}
    open_run(tmp_path, record | {"config": record["config"] | harmless}, ALONE, resume=True)
    assert not [r for r in caplog.records if r.levelno > logging.INFO]
    rounding = {"strategy": "single", "gradient_accumulation": 2}
    open_run(tmp_path, record | {"config": record["config"] | rounding}, ALONE, resume=True)
    assert "gradient_accumulation, strategy changed" in caplog.text


def test_more_steps_are_kept_in_the_record(tmp_path: Path, record: dict[str, Any]) -> None:
    begun(tmp_path, record)
    longer = record | {"config": record["config"] | {"steps": 9, "schedule_steps": 6}}
    assert open_run(tmp_path, longer, ALONE, resume=True) is False
    kept = json.loads((tmp_path / "run.json").read_text())
    assert kept == json.loads(json.dumps(longer))
    assert open_run(tmp_path, longer, ALONE, resume=True) is False
    with pytest.raises(ConfigError, match="for more steps, not for fewer"):
        open_run(tmp_path, record, ALONE, resume=True)


def test_more_steps_with_other_rates_are_refused_with_advice(
    tmp_path: Path, record: dict[str, Any]
) -> None:
    begun(tmp_path, record)
    longer = record | {"config": record["config"] | {"steps": 9}}
    with pytest.raises(ConfigError, match=r"steps was 6, now 9.*add schedule_steps=6"):
        open_run(tmp_path, longer, ALONE, resume=True)


def test_another_model_or_corpus_is_named(tmp_path: Path, record: dict[str, Any]) -> None:
    begun(tmp_path, record)
    with pytest.raises(ConfigError, match=r"another model: wta was 'hard', now 'top_k'"):
        open_run(
            tmp_path, record | {"model": record["model"] | {"wta": "top_k"}}, ALONE, resume=True
        )
    with pytest.raises(ConfigError, match=r"another data: corpus was .*now 'other'"):
        open_run(
            tmp_path, record | {"data": record["data"] | {"corpus": "other"}}, ALONE, resume=True
        )


def test_export_replaces_file_by_file(tmp_path: Path, fresh: Any) -> None:
    model, _, tokenizer = fresh("wd")
    (tmp_path / "model.safetensors").write_text("old")
    export(model, type(model), tokenizer, tmp_path, ALONE, "# A card\n")
    assert (tmp_path / "README.md").read_text() == "# A card\n"
    assert not (tmp_path / ".export").exists()
    import spikeformers.models as models

    loaded, _ = models.load_model(tmp_path)
    assert all(torch.equal(model.state_dict()[k], v) for k, v in loaded.state_dict().items())


def test_export_on_a_full_disk_keeps_existing_files(
    tmp_path: Path, fresh: Any, full_disk: Any
) -> None:
    model, _, tokenizer = fresh("wd")
    (tmp_path / "model.safetensors").write_text("old")
    with full_disk(), pytest.raises(StorageError, match="Could not save the model"):
        export(model, type(model), tokenizer, tmp_path, ALONE, None)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("model.safetensors", "old")]
