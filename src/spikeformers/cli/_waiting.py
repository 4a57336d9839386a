"""Make waiting OpenMP threads sleep after a moment, unless the user has chosen otherwise.

By default a waiting OpenMP thread spins. On a machine with other work it then takes the processor
from the very thread it waits for, and two threads can be many times slower than one. A thread that
sleeps at once has to be woken many times per training step, which costs a fifth of the speed of an
idle machine; GNU's library can spin for a moment first, which costs nothing there.
OpenMP reads the environment once, when torch loads it; child processes inherit it.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

WAITING = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"}
"""Sleep; with GNU's library after 1,000 turns of a loop."""
CHOSEN_BY = (*WAITING, "KMP_BLOCKTIME", "KMP_LIBRARY")
"""Variables that set how threads wait, of OpenMP, GNU's libgomp, and LLVM's and Intel's libomp."""


def wait_passively(environment: MutableMapping[str, str] | None = None) -> None:
    """Let waiting threads sleep, unless ``environment`` (default: this process's) sets another way.

    It affects this process only if called before torch is imported.
    """
    environment = os.environ if environment is None else environment
    if not any(name in environment for name in CHOSEN_BY):
        environment.update(WAITING)
