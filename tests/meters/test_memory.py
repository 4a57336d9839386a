from __future__ import annotations

import subprocess
import sys

from spikeformers.meters import memory

GROW = """
from spikeformers.meters.memory import forget_peak, peak_bytes, resident_bytes
before = resident_bytes()
held = bytearray(b"x" * 64 * 2**20)
with_it = peak_bytes()
del held
began = forget_peak()
print(before, with_it, peak_bytes() if began else 0)
"""


def test_a_peak_includes_freed_memory_and_can_be_reset():
    done = subprocess.run([sys.executable, "-c", GROW], capture_output=True, text=True, check=True)
    before, with_it, after = (int(part) for part in done.stdout.split())
    assert with_it - before > 63 * 2**20
    assert after < with_it - 60 * 2**20


def test_kilobytes_of_a_status_file(tmp_path):
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmHWM:\t    123 kB\nVmRSS:\t    45 kB\n")
    assert memory._of_status("VmHWM", status) == 123 * 1024
    assert memory._of_status("VmSwap", status) is None
    assert memory._of_status("VmHWM", tmp_path / "none") is None


def test_a_system_without_proc(monkeypatch):
    monkeypatch.setattr(memory, "_of_status", lambda key: None)
    assert memory.peak_bytes() > 2**20
