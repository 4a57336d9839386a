"""The process of one system, controlled from outside."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import IO, Any

from spikeformers.errors import SpikeformersError, UsageError
from spikeformers.evaluation.measured.programs import Program

LOOK_EVERY = 1.0  # seconds


class Child:
    """A running `spikeformers.meters.child`; closed at the end of a ``with``."""

    def __init__(self, name: str, program: Program, threads: int) -> None:
        self.name = name
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (closed in close)
        bound = {key: str(threads) for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "spikeformers.meters.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=os.environ | bound,
        )
        try:
            self.opened = self.ask(
                {
                    "opener": program.opener,
                    "arguments": dict(program.arguments),
                    "libraries": list(program.libraries),
                }
            )
        except BaseException:
            self.close()
            raise

    def ask(
        self, request: dict[str, Any], look: Callable[[], object] | None = None
    ) -> dict[str, Any]:
        """Send one line and wait for the answer; ``look`` is called every second until it comes.

        Raises SpikeformersError with the output of a process that ended or failed, UsageError for a
        wrong request.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            while look and not select.select([self._process.stdout], [], [], LOOK_EVERY)[0]:
                look()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._process.wait()
            self._errors.seek(0)
            output = self._errors.read().decode(errors="replace").strip()[-400:]
            raise SpikeformersError(f"the process that measures {self.name!r} ended: {output}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            kind = UsageError if answer["usage"] else SpikeformersError
            raise kind(f"{self.name!r} cannot be measured: {answer['error']}")
        return answer

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):  # it ended before it read all
                    pipe.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
