"""Means over seeds and tasks, by hand."""

from __future__ import annotations

import pytest

from spikeformers.data.glue import GLUE
from spikeformers.errors import CheckpointError
from spikeformers.training.glue.summary import paper_score, standard_score, summarise

SAME = {"accuracy": 0.6, "f1": 0.8, "matthews": 0.0, "pearson": 0.0, "spearman": 0.0,
        "accuracy/mismatched": 0.4}  # fmt: skip
MNLI = {"loss": 1.0, "accuracy": 0.7, "loss/mismatched": 1.0, "accuracy/mismatched": 0.8}
MRPC = {"loss": 1.0, "accuracy": 0.6, "f1": 0.8}


def test_scores_of_a_task() -> None:
    assert standard_score(MNLI) == pytest.approx(0.75)
    assert paper_score("mnli", MNLI) == 0.7
    assert standard_score(MRPC) == pytest.approx(0.7)
    assert paper_score("mrpc", MRPC) == 0.8
    assert paper_score("stsb", {"loss": 0, "pearson": 0.5, "spearman": 0.4}) == 0.5
    assert paper_score("cola", {"loss": 0, "matthews": 0.3}) == 0.3


def test_mean_and_spread_over_seeds() -> None:
    first, second = ({"task": "mrpc", "seed": seed, "dev": MRPC | {"f1": f},
                 "dev_majority": {"accuracy": 0.6, "f1": 0.8}}
                for seed, f in ((1, 0.8), (0, 0.9)))  # fmt: skip
    summary = summarise([first, second])
    f1 = summary["tasks"]["mrpc"]["metrics"]["f1"]
    assert f1 == {"mean": pytest.approx(85), "deviation": pytest.approx(7.0710678), "seeds": 2}
    assert summary["means"] == {"standard": pytest.approx(72.5), "paper": pytest.approx(85)}
    majority = summary["tasks"]["mrpc"]["majority"]
    assert majority == pytest.approx({"accuracy": 60, "f1": 80, "standard": 70, "paper": 80})
    assert (summary["means_over"], summary["whole"]) == (["mrpc"], False)
    assert summarise([first])["tasks"]["mrpc"]["paper"]["deviation"] is None


def test_the_complete_suite_leaves_out_wnli() -> None:
    by_task = {"mnli": MNLI, "mrpc": MRPC, "qqp": MRPC, "cola": {"matthews": 0.2},
               "stsb": {"pearson": 0.4, "spearman": 0.2}}  # fmt: skip
    runs = [
        {
            "task": task,
            "seed": 0,
            "dev": by_task.get(task, {"accuracy": 0.5}),
            "dev_majority": {
                key: SAME[key] for key in by_task.get(task, {"accuracy": 0}) if key in SAME
            },
        }
        for task in (*GLUE, "wnli", "mr")
    ]
    summary = summarise(runs)
    assert summary["whole"]
    assert summary["means"]["standard"] == pytest.approx(
        (75 + 70 + 50 + 50 + 20 + 30 + 70 + 50) / 8
    )
    assert summary["means"]["paper"] == pytest.approx((70 + 80 + 50 + 50 + 20 + 40 + 80 + 50) / 8)
    same = {"standard": (50 + 70 + 60 + 60 + 0 + 0 + 70 + 60) / 8,
            "paper": (60 + 80 + 60 + 60 + 0 + 0 + 80 + 60) / 8}  # fmt: skip
    assert summary["majority_means"] == pytest.approx(same)
    assert summarise(runs[-1:])["means"] == {"standard": None, "paper": None}


def test_a_result_without_majority_is_an_error_with_advice() -> None:
    with pytest.raises(CheckpointError, match=r"a result of mrpc .*evaluate glue RUN --again"):
        summarise([{"task": "mrpc", "seed": 0, "dev": MRPC}])
