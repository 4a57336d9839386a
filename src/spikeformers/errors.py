"""The errors of this package, and the exit code that the command line gives each of them.

SpikeformersError            1  something failed
|-- UsageError               2  the request itself is wrong
|   |-- ConfigError             unknown key, preset or value
|   `-- DataError               missing, empty, short or unreadable data
|-- CheckpointError          1  a model or checkpoint that cannot be read
|-- TrainingDiverged         1  a loss or gradient that is not finite
|-- RequirementNotMet        1  an audited model falls short of what was required
|-- EngineUnavailable        1  the native engine was not built, or cannot run the request
|-- OfflineError             1  something has to be downloaded, and the network does not answer
`-- StorageError             1  the disk refused a write
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SpikeformersError(Exception):
    """Base of every error that this package raises on purpose."""

    exit_code = 1


class UsageError(SpikeformersError):
    """The request itself is wrong; nothing was started."""

    exit_code = 2


class ConfigError(UsageError):
    """An unknown key, preset or value."""


class DataError(UsageError):
    """Data that is missing, empty, too short or unreadable."""


class CheckpointError(SpikeformersError):
    """A model folder or checkpoint that is missing, truncated, foreign or unsafe."""


class TrainingDiverged(SpikeformersError):
    """The loss or the gradient norm is not finite; the last good checkpoint is kept."""


class RequirementNotMet(SpikeformersError):
    """An audited model falls short of a requirement."""


class EngineUnavailable(SpikeformersError):
    """The engine or a kernel is missing, or this processor or build cannot run the request."""


class OfflineError(SpikeformersError):
    """Something has to be downloaded, and the network does not answer."""


class StorageError(SpikeformersError):
    """The disk refused a write; existing files are unchanged."""


def nearest(key: str, names: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the name closest to ``key``, or ``""``."""
    match = difflib.get_close_matches(key, list(names), n=1, cutoff=0.5)
    return f" Did you mean {match[0]!r}?" if match else ""
