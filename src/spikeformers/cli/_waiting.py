"""How OpenMP's threads wait for one another: asleep, unless the user has chosen otherwise.

A thread of OpenMP that waits spins by default, which on a machine that does other work takes the
processor from the very thread it waits for: two threads can then be many times slower than one.
OpenMP reads the environment once, when torch loads it; child processes inherit it.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

POLICY = "OMP_WAIT_POLICY"
CHOSEN_BY = (POLICY, "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
"""Any of these says how threads wait: of OpenMP, of GNU's libgomp, of LLVM's and Intel's libomp."""


def wait_passively(environment: MutableMapping[str, str] | None = None) -> None:
    """Let waiting threads sleep, unless ``environment`` (this process's) says how they wait.

    It has an effect on this process only before torch is imported.
    """
    environment = os.environ if environment is None else environment
    if not any(name in environment for name in CHOSEN_BY):
        environment[POLICY] = "passive"
