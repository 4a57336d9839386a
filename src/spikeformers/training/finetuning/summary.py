"""Many fine-tuned runs as one table: mean and spread over seeds, and two ways to take the mean.

    task       the mean of its metrics, MNLI's of matched and mismatched     (GLUE's rule)
    standard   mean of the tasks, WNLI left out, as BERT's paper does        (Devlin et al. 2019)
    paper      one number a task: MNLI matched, F1 of QQP and MRPC, Pearson of STS-B

arXiv 2604.11321 does not say how its mean is taken. Its rows are one number a task, and the 0 on
QQP and 81.2 on MRPC of its weakest row are the F1 of "never" and "always"; which correlation STS-B
has is open.
Numbers are hundredths, as in the tables of the papers.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from spikeformers.data.glue import GLUE

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
    """``runs`` hold ``task``, ``seed`` and ``dev``, the metrics. The means are over the tasks of
    GLUE that are there (``means_over``); ``whole`` says whether that is all eight.
    """
    by_task: dict[str, list[Mapping[str, float]]] = {}
    for run in sorted(runs, key=lambda run: (run["task"], run["seed"])):
        by_task.setdefault(run["task"], []).append(run["dev"])
    tasks: dict[str, Any] = {}
    for task, found in by_task.items():
        keys = [key for key in found[0] if key.split("/")[0] not in NOT_SCORES]
        tasks[task] = {
            "metrics": {key: spread([one[key] for one in found]) for key in keys},
            "standard": spread([standard_score(one) for one in found]),
            "paper": spread([paper_score(task, one) for one in found]),
        }
    done = [task for task in GLUE if task in tasks]
    means = {
        way: statistics.fmean(tasks[task][way]["mean"] for task in done) if done else None
        for way in ("standard", "paper")
    }
    return {"tasks": tasks, "means": means, "means_over": done, "whole": len(done) == len(GLUE)}
