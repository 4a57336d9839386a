"""Zero-shot choice by log-likelihood, on lm-evaluation-harness and its task definitions.

Needs the extra ``eval``: ``pip install 'spikeformers[eval]'``.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from spikeformers.evaluation.zeroshot.names import GROUPS, SUITES, TASKS, resolve

if TYPE_CHECKING:
    from spikeformers.evaluation.zeroshot.run import TaskReport, Zeroshot

__all__ = ["GROUPS", "SUITES", "TASKS", "TaskReport", "Zeroshot", "check_harness", "resolve"]


def check_harness() -> None:
    """Raise ConfigError where lm-evaluation-harness is not installed."""
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
