"""``--profile``: a trace of a few training steps, by torch.profiler.

    RUN/profile/steps-3-5-rank-0.json

Chrome's ``chrome://tracing`` and https://ui.perfetto.dev open it. The first steps are left out,
since they allocate memory and compile.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile, schedule, supported_activities

from spikeformers.storage import replacing

logger = logging.getLogger(__name__)

WAIT, WARM_UP, ACTIVE = 1, 1, 3  # steps


class StepProfiler:
    """A context manager around the training loop; does nothing unless ``enabled``.

    ``step`` is the number of steps that were made before. Raises ``StorageError`` if the trace
    cannot be written.
    """

    def __init__(self, out: Path, *, rank: int, step: int, enabled: bool) -> None:
        first = step + WAIT + WARM_UP + 1
        name = f"steps-{first}-{first + ACTIVE - 1}-rank-{rank}.json"
        self.path = out / "profile" / name
        self._profile: Any = None
        self._written = False
        if enabled:
            devices = {ProfilerActivity.CPU, ProfilerActivity.CUDA} & set(supported_activities())
            self._profile = profile(
                activities=sorted(devices, key=str),
                schedule=schedule(wait=WAIT, warmup=WARM_UP, active=ACTIVE, repeat=1),
                on_trace_ready=self._write,
                record_shapes=True,
                profile_memory=True,
            )

    def __enter__(self) -> StepProfiler:
        if self._profile is not None:
            self._profile.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._profile is None:
            return
        self._profile.__exit__(*error)
        if not self._written:
            logger.warning(
                "no trace: the run ended before step %d, with which the trace is complete",
                int(self.path.stem.split("-")[2]),
            )

    def step(self) -> None:
        """A training step is complete."""
        if self._profile is not None:
            self._profile.step()

    def _write(self, trace: Any) -> None:
        if trace.step_num < WAIT + WARM_UP + ACTIVE:
            return  # the run ended in the middle: what was recorded is not whole steps
        with replacing(self.path) as temporary:
            trace.export_chrome_trace(str(temporary))
        self._written = True
        logger.info("trace %s", self.path)
