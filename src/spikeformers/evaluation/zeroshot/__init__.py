"""Zero-shot multiple choice by log-likelihood, with lm-evaluation-harness and its tasks.

Needs the extra ``eval``: ``pip install 'spikeformers[eval]'``.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikeformers.evaluation.zeroshot.names import GROUPS, SUITES, TASKS, resolve

if TYPE_CHECKING:
    from spikeformers.evaluation.zeroshot.run import TaskReport, Zeroshot

__all__ = [
    "GROUPS",
    "SUITES",
    "TASKS",
    "TaskReport",
    "Zeroshot",
    "check_harness",
    "evaluate_zeroshot",
    "resolve",
]


def evaluate_zeroshot(
    model: Any,
    tokenizer: Any,
    tasks: str | Iterable[str],
    *,
    data_dir: str | Path | None = None,
    limit: int | None = None,
    **options: Any,
) -> list[TaskReport]:
    """Score a causal model, or an engine's reader, on zero-shot tasks; one report per task.

    ``tasks`` are names or suites as in ``spikeformers evaluate zeroshot``. Documents come from
    ``data_dir``, or from the hub; ``limit`` is the number of first documents per task. ``options``
    are passed to `Zeroshot`: batch_size, max_length, cached, progress. Raises ConfigError for an
    unknown task or without lm-evaluation-harness, DataError for missing documents.
    """
    check_harness()
    from spikeformers.evaluation.zeroshot.run import Zeroshot

    names = resolve(tasks if isinstance(tasks, str) else list(tasks))
    runner = Zeroshot("model", model, tokenizer, **options)
    folder = None if data_dir is None else Path(data_dir)
    return [runner.run(name, data_dir=folder, limit=limit) for name in names]


def check_harness() -> None:
    """Raise ConfigError if lm-evaluation-harness is not installed."""
    if importlib.util.find_spec("lm_eval") is None:
        from spikeformers.errors import ConfigError

        raise ConfigError(
            "zero-shot tasks need lm-evaluation-harness, which is not installed: "
            "pip install 'spikeformers[eval]'."
        )


def __getattr__(name: str) -> Any:
    if name in ("TaskReport", "Zeroshot"):
        check_harness()
        from spikeformers.evaluation.zeroshot import run

        return getattr(run, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
