from __future__ import annotations

import os
import struct

import pytest

from spikeformers.meters import counters
from spikeformers.meters.counters import Counters


def test_counters_are_there_or_say_why_not():
    opened = Counters()
    counts = opened.read()
    if opened.reason:
        assert len(counts) < len(counters.EVENTS)
    else:
        later = opened.read()
        assert later["instructions"] > counts["instructions"] > 0
    opened.close()
    assert opened.read() == {}


def test_a_shared_counter_is_scaled_up(monkeypatch):
    file, write = os.pipe()
    monkeypatch.setattr(counters, "_open", lambda call, number: (os.dup(file), ""))
    monkeypatch.setattr(counters, "EVENTS", {"cache_misses": 3})
    monkeypatch.setattr(counters.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(counters.sys, "platform", "linux")
    opened = Counters()
    os.write(write, struct.pack("QQQ", 30, 100, 25))  # counted for a quarter of the time
    assert opened.read() == {"cache_misses": 120.0}
    os.write(write, struct.pack("QQQ", 0, 100, 0))  # never ran
    assert opened.read() == {"cache_misses": 0.0}
    opened.close()
    os.close(file)
    os.close(write)


@pytest.mark.parametrize(
    ("error", "message"), [(1, "not permitted"), (2, "offers none"), (22, "Inv")]
)
def test_why_there_are_none(monkeypatch, error, message):
    class Library:
        def syscall(self, *given: object) -> int:
            return -1

    monkeypatch.setattr(counters.ctypes, "CDLL", lambda *given, **more: Library())
    monkeypatch.setattr(counters.ctypes, "get_errno", lambda: error)
    monkeypatch.setattr(counters.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(counters.sys, "platform", "linux")
    opened = Counters()
    assert message in opened.reason
    assert opened.read() == {}


def test_another_system_has_none(monkeypatch):
    monkeypatch.setattr(counters.sys, "platform", "darwin")
    assert "darwin" in Counters().reason
