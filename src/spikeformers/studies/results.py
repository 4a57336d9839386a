"""Read the results that other verbs wrote into a run's folder, with every part checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spikeformers.foreign import check_object, read_json

TASK: dict[str, Any] = {
    **{"limit": int | None, "docs_sha256": str},
    **{"metrics": dict[str, dict[str, Any]], "samples": dict[str, list[float]]},
}
ACCURACIES = ("acc", "acc_norm")
"""The metrics in tables and cards; others have no chance level."""
METRIC: dict[str, Any] = {
    **{"value": float, "stderr": float, "at_chance": bool | None},
    **{"chance": float | None, "majority": float | None},
}
ON_A_CARD: dict[str, Any] = {"documents": int, "split": str}
"""What a model card shows of a task in addition to its scores."""
SENTENCES: dict[str, Any] = {
    **{"task": str, "seed": int, "data_sha256": str, "dev": dict[str, float]},
}
SETTINGS: dict[str, Any] = {"selection": str, "config": dict}
"""What a resumed `finetune` compares a finished run by, and what its summary shows."""
PREDICTED: dict[str, Any] = {"labels": dict[str, list[Any]], "predictions": dict[str, list[Any]]}


def read_zeroshot(path: Path, *, for_card: bool = False) -> dict[str, dict[str, Any]]:
    """Task -> its part of a ``zeroshot-TASK.json``. CheckpointError names a damaged file."""
    needed = TASK | (ON_A_CARD if for_card else {})
    advice = "`spikeformers evaluate zeroshot` writes it again."
    tasks = read_json(path, advice=advice, needed={"tasks": dict[str, dict[str, Any]]})["tasks"]
    for name, result in tasks.items():
        check_object(result, needed, f"{name} in {path}", advice=advice)
        for metric in ACCURACIES:
            if metric in result["metrics"]:
                where = f"{name} {metric} in {path}"
                check_object(result["metrics"][metric], METRIC, where, advice=advice)
    return dict(tasks)


def read_sentences(path: Path, *, predicted: bool = False) -> dict[str, Any] | None:
    """A ``result.json`` of ``spikeformers finetune``; None for a file of another kind.

    With ``predicted`` it must hold labels and predictions, otherwise its settings.
    CheckpointError names a damaged file.
    """
    advice = "`spikeformers evaluate glue --again` measures the run again."
    result = read_json(path, advice=advice)
    if result.get("kind") != "sentences":
        return None
    needed = SENTENCES | (PREDICTED if predicted else SETTINGS)
    return check_object(result, needed, path, advice=advice)
