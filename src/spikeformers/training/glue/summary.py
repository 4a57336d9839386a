"""Many fine-tuned runs as one table: mean and spread over seeds, and two ways to take the mean.

    task       the mean of its metrics, MNLI's of matched and mismatched     (GLUE's rule)
    standard   mean of the tasks, WNLI left out, as BERT's paper does        (Devlin et al. 2019)
    paper      one number a task: MNLI matched, F1 of QQP and MRPC, Pearson of STS-B

arXiv 2604.11321 does not say how its mean is taken. Its rows are one number a task, and the 0 on
QQP and 81.2 on MRPC of its weakest row are the F1 of "never" and "always"; which correlation STS-B
has is open.
Numbers are hundredths, as in the tables of the papers; beside each, what one answer to all of the
dev set would score.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from spikeformers.data.glue import GLUE
from spikeformers.errors import CheckpointError

PAPER = {"qqp": "f1", "mrpc": "f1", "stsb": "pearson"}
NOT_SCORES = ("loss",)


def standard_score(metrics: Mapping[str, float]) -> float:
    """Mean of a task's metrics, over all its dev sets."""
    return statistics.fmean(v for k, v in metrics.items() if k.split("/")[0] not in NOT_SCORES)


def paper_score(task: str, metrics: Mapping[str, float]) -> float:
    """The one number that the spiking papers give for a task."""
    if task in PAPER:
        return metrics[PAPER[task]]
    return next(value for key, value in metrics.items() if key not in NOT_SCORES)


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, sample deviation (None for one seed) and count, in hundredths."""
    found = [100 * value for value in values]
    deviation = statistics.stdev(found) if len(found) > 1 else None
    return {"mean": statistics.fmean(found), "deviation": deviation, "seeds": len(found)}


def summarise(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """``runs`` hold ``task``, ``seed``, the metrics ``dev`` and ``dev_majority``, of one answer to
    all. The means are over the tasks of GLUE that are there (``means_over``); ``whole`` says
    whether that is all eight.
    """
    by_task: dict[str, list[Mapping[str, float]]] = {}
    majority: dict[str, Mapping[str, float]] = {}
    for run in sorted(runs, key=lambda run: (run["task"], run["seed"])):
        by_task.setdefault(run["task"], []).append(run["dev"])
        if "dev_majority" not in run:
            raise CheckpointError(
                f"a result of {run['task']} does not say what one answer to all would score: an "
                "older version wrote it. `spikeformers evaluate glue RUN --again` measures anew."
            )
        majority[run["task"]] = run["dev_majority"]
    tasks: dict[str, Any] = {}
    for task, found in by_task.items():
        keys = [key for key in found[0] if key.split("/")[0] not in NOT_SCORES]
        tasks[task] = {
            "metrics": {key: spread([one[key] for one in found]) for key in keys},
            "standard": spread([standard_score(one) for one in found]),
            "paper": spread([paper_score(task, one) for one in found]),
            "majority": {key: 100 * majority[task][key] for key in keys}
            | {
                "standard": 100 * standard_score(majority[task]),
                "paper": 100 * paper_score(task, majority[task]),
            },
        }
    done = [task for task in GLUE if task in tasks]

    def mean(values: list[float]) -> float | None:
        return statistics.fmean(values) if values else None

    ways = ("standard", "paper")
    return {
        "tasks": tasks,
        "means": {way: mean([tasks[task][way]["mean"] for task in done]) for way in ways},
        "majority_means": {w: mean([tasks[task]["majority"][w] for task in done]) for w in ways},
        "means_over": done,
        "whole": len(done) == len(GLUE),
    }
