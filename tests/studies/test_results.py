"""Results that other verbs wrote: read back whole, refused by name where damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from spikeformers.errors import CheckpointError
from spikeformers.studies.results import read_sentences, read_zeroshot

ACC = {"value": 0.5, "stderr": 0.1, "chance": 0.25, "majority": None, "at_chance": None}
TASK = {
    "metrics": {"acc": ACC, "perplexity": {"value": None, "stderr": 0.1}},
    "samples": {"acc": [1, 0.0]},
    **{"docs_sha256": "d", "limit": None, "documents": 2, "split": "test"},
}
RUN = {"kind": "sentences", "task": "sst2", "seed": 0, "data_sha256": "s", "dev": {"loss": 1.0},
       "labels": {"dev": [0]}, "predictions": {"dev": [1]}}  # fmt: skip


def written(folder: Path, value: Any) -> Path:
    path = folder / "found.json"
    path.write_text(json.dumps(value))
    return path


def test_a_metric_without_chance_is_no_damage(tmp_path: Path) -> None:
    path = written(tmp_path, {"tasks": {"lambada": TASK}})
    assert read_zeroshot(path, for_card=True) == {"lambada": TASK}


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({k: v for k, v in TASK.items() if k != "limit"}, "lambada in .*'limit' is missing"),
        (TASK | {"samples": {"acc": ["x"]}}, "samples is .*lists? of numbers"),
        (TASK | {"metrics": {"acc": ACC | {"stderr": "x"}}}, "lambada acc in .*stderr is 'x'"),
        (TASK | {"split": 3}, "split is 3; it must be text"),
        ([], "tasks is .*; it must be a mapping"),
    ],
)
def test_a_damaged_zeroshot_result(tmp_path: Path, task: Any, message: str) -> None:
    path = written(tmp_path, {"tasks": {"lambada": task}})
    with pytest.raises(CheckpointError, match=message):
        read_zeroshot(path, for_card=True)


def test_results_of_finetune(tmp_path: Path) -> None:
    path = written(tmp_path, RUN)
    assert read_sentences(path, predicted=True) == RUN
    with pytest.raises(
        CheckpointError, match=r"found\.json cannot be used: 'selection' is missing"
    ):
        read_sentences(path)
    assert read_sentences(written(tmp_path, {"kind": "images"})) is None
