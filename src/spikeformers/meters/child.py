"""The process of one measured system: opens the system and runs it on request.

    python -m spikeformers.meters.child        one line of JSON in, one line out

    {"opener": "module:function", "arguments": {...}, "libraries": [...]}
        -> {"memory": ..., "weight_bytes": ..., "counters": null or why there are none}
    {"do": "begin", "ids": [...]}      -> times and counters of this request
    {"do": "steps", "ids": [...]}      -> the same, with the time of each step
    {"do": "memory"}                   -> the peak so far

The opener returns an object with ``begin(ids)`` and ``step(token)``; the counts of its
``counters()``, if it has this method, are reported too. Whatever it prints goes to standard error.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from spikeformers.errors import SpikeformersError, UsageError
from spikeformers.meters.counters import Counters
from spikeformers.meters.memory import forget_peak, peak_bytes, resident_bytes
from spikeformers.meters.stopwatch import clock


class Served:
    """The system that runs in this process."""

    def __init__(self, job: dict[str, Any]) -> None:
        for name in job["libraries"]:
            importlib.import_module(name)
        before = resident_bytes()
        self.hardware = Counters()  # before any thread of the system, so that all are counted
        module, _, function = job["opener"].partition(":")
        self.system = getattr(importlib.import_module(module), function)(**job["arguments"])
        opening = peak_bytes()
        self.memory = {
            "libraries_bytes": before,
            "peak_bytes_opening": opening,
            "peak_is_of_running": forget_peak(),
        }

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what one line requests."""
        ids: list[int] = request.get("ids", [])
        if request["do"] == "begin":
            return self._watched(lambda: self.system.begin(ids))
        if request["do"] == "steps":
            seconds: list[float] = []
            measured = self._watched(lambda: self._steps(ids, seconds))
            return {**measured, "steps": seconds}
        return {**self.memory, "peak_bytes": peak_bytes()}

    def opened(self) -> dict[str, Any]:
        """The first answer."""
        size = getattr(self.system, "weight_bytes", None)
        return {"weight_bytes": size, "no_hardware": self.hardware.reason or None}

    def _steps(self, ids: Sequence[int], seconds: list[float]) -> None:
        for token in ids:
            seconds.append(clock(partial(self.system.step, token)).wall)

    def _watched(self, work: Callable[[], None]) -> dict[str, Any]:
        counted, hardware = self._counted(), self.hardware.read()
        seconds = clock(work)
        after, late = self._counted(), self.hardware.read()
        return {
            **seconds._asdict(),
            "hardware": {name: late[name] - hardware[name] for name in late},
            "counted": {name: after[name] - counted[name] for name in after},
        }

    def _counted(self) -> dict[str, int]:
        if not hasattr(self.system, "counters"):
            return {}
        counts: dict[str, int] = self.system.counters()
        return dict(counts)


def main() -> None:
    """Answer requests until the input ends."""
    with os.fdopen(os.dup(1), "w") as channel:
        os.dup2(2, 1)

        def tell(answer: dict[str, Any]) -> None:
            channel.write(json.dumps(answer) + "\n")
            channel.flush()

        try:
            served = Served(json.loads(sys.stdin.readline()))
            tell(served.opened())
            for line in sys.stdin:
                tell(served.answer(json.loads(line)))
        except SpikeformersError as error:
            tell({"error": str(error), "usage": isinstance(error, UsageError)})


if __name__ == "__main__":
    main()
