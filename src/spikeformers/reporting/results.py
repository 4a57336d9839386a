"""What other verbs wrote into a run's folder, read back with every part checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spikeformers.foreign import check_object, read_json

TASK: dict[str, Any] = {
    **{"limit": int | None, "docs_sha256": str, "documents": int, "split": str},
    **{"metrics": dict[str, dict[str, Any]], "samples": dict[str, list[float]]},
}
METRIC: dict[str, Any] = {
    **{"value": float, "stderr": float, "at_chance": bool},
    **{"chance": float | None, "majority": float | None},
}
SENTENCES: dict[str, Any] = {
    **{"task": str, "seed": int, "data_sha256": str, "selection": str, "config": dict},
    "dev": dict[str, float],
}
PREDICTED: dict[str, Any] = {"labels": dict[str, list[Any]], "predictions": dict[str, list[Any]]}


def read_zeroshot(path: Path) -> dict[str, dict[str, Any]]:
    """Task -> its part of a ``zeroshot-TASK.json``. CheckpointError names a damaged file."""
    advice = "`spikeformers evaluate zeroshot` writes it anew."
    tasks = read_json(path, advice=advice, needed={"tasks": dict[str, dict[str, Any]]})["tasks"]
    for name, found in tasks.items():
        check_object(found, TASK, f"{name} in {path}", advice=advice)
        for metric, one in found["metrics"].items():
            check_object(one, METRIC, f"{name} {metric} in {path}", advice=advice)
    return dict(tasks)


def read_sentences(path: Path, *, predicted: bool = False) -> dict[str, Any] | None:
    """A ``result.json`` of ``spikeformers finetune``; None for a file of another kind.

    ``predicted``: it must hold labels and predictions. CheckpointError names a damaged file.
    """
    advice = "`spikeformers evaluate glue --again` measures the run anew."
    found = read_json(path, advice=advice)
    if found.get("kind") != "sentences":
        return None
    return check_object(found, SENTENCES | (PREDICTED if predicted else {}), path, advice=advice)
