"""Many fine-tuned runs as one table: mean and spread over seeds, and two kinds of mean score.

    task       the mean of its metrics, MNLI's of matched and mismatched     (GLUE's rule)
    standard   mean over the tasks without WNLI, as in BERT's paper          (Devlin et al. 2019)
    paper      one number per task: MNLI matched, F1 of QQP and MRPC, Pearson of STS-B

arXiv 2604.11321 does not say how its mean is taken. Its rows have one number per task; the 0 on QQP
and 81.2 on MRPC of its weakest row are the F1 of always answering "no" and always answering "yes".
Which correlation it gives for STS-B is open.
Scores are in percent, as in the tables of the papers; beside each is the best score of the same
answer to the whole dev set.
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
    """The single number that the spiking papers give for a task."""
    if task in PAPER:
        return metrics[PAPER[task]]
    return next(value for key, value in metrics.items() if key not in NOT_SCORES)


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean and sample deviation (None for one seed) in percent, and the number of seeds."""
    percent = [100 * value for value in values]
    deviation = statistics.stdev(percent) if len(percent) > 1 else None
    return {"mean": statistics.fmean(percent), "deviation": deviation, "seeds": len(percent)}


def summarise(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Scores by task, and their means over the available tasks of GLUE (``means_over``).

    ``runs`` hold ``task``, ``seed``, the metrics ``dev``, and ``dev_majority``, the metrics of the
    same answer to all examples. ``whole`` in the result says whether all eight tasks are there.
    """
    by_task: dict[str, list[Mapping[str, float]]] = {}
    majority: dict[str, Mapping[str, float]] = {}
    for run in sorted(runs, key=lambda run: (run["task"], run["seed"])):
        by_task.setdefault(run["task"], []).append(run["dev"])
        if "dev_majority" not in run:
            raise CheckpointError(
                f"a result of {run['task']} lacks the score of the same answer to all examples: an "
                "older version wrote it. `spikeformers evaluate glue RUN --again` repeats the "
                "measurement."
            )
        majority[run["task"]] = run["dev_majority"]
    tasks: dict[str, Any] = {}
    for task, seeds in by_task.items():
        keys = [key for key in seeds[0] if key.split("/")[0] not in NOT_SCORES]
        tasks[task] = {
            "metrics": {key: spread([metrics[key] for metrics in seeds]) for key in keys},
            "standard": spread([standard_score(metrics) for metrics in seeds]),
            "paper": spread([paper_score(task, metrics) for metrics in seeds]),
            "majority": {key: 100 * majority[task][key] for key in keys}
            | {
                "standard": 100 * standard_score(majority[task]),
                "paper": 100 * paper_score(task, majority[task]),
            },
        }
    available = [task for task in GLUE if task in tasks]

    def mean(values: list[float]) -> float | None:
        return statistics.fmean(values) if values else None

    scores = ("standard", "paper")
    return {
        "tasks": tasks,
        "means": {way: mean([tasks[task][way]["mean"] for task in available]) for way in scores},
        "majority_means": {
            w: mean([tasks[task]["majority"][w] for task in available]) for w in scores
        },
        "means_over": available,
        "whole": len(available) == len(GLUE),
    }
