"""Make waiting OpenMP threads sleep, unless the user has chosen otherwise.

By default a waiting OpenMP thread spins. On a machine with other work it then takes the processor
from the very thread it waits for, and two threads can be many times slower than one.
OpenMP reads the environment once, when torch loads it; child processes inherit it.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

POLICY = "OMP_WAIT_POLICY"
CHOSEN_BY = (POLICY, "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
"""Variables that set how threads wait, of OpenMP, GNU's libgomp, and LLVM's and Intel's libomp."""


def wait_passively(environment: MutableMapping[str, str] | None = None) -> None:
    """Let waiting threads sleep, unless ``environment`` (default: this process's) sets another way.

    It affects this process only if called before torch is imported.
    """
    environment = os.environ if environment is None else environment
    if not any(name in environment for name in CHOSEN_BY):
        environment[POLICY] = "passive"
