"""Every kernel compiles for real GPUs, which needs none: Triton brings the compiler of PTX."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed: pip install 'spikeformers[triton]'")

SCRIPT = Path(__file__).parent / "compile_all.py"
SHARED_MEMORY = {90: 227 * 1024}
"""Bytes that a program may have, by compute capability."""


@pytest.mark.slow
@pytest.mark.parametrize("capability", sorted(SHARED_MEMORY))
def test_kernels_compile_and_fit_the_shared_memory(capability: int) -> None:
    """In a process of its own, since the interpreter replaces the compiler in this one."""
    result = subprocess.run(
        [sys.executable, str(SCRIPT), str(capability)], check=True, capture_output=True, text=True
    )
    rows = [line.split() for line in result.stdout.splitlines()]
    assert len(rows) == 3 * 13 + 2 * 6
    for name, kind, shared in rows:
        assert int(shared) <= SHARED_MEMORY[capability], (name, kind)
