"""Programs that run a language model, timed side by side: prompt reading and decoding, batch 1.

Every system gets the same token ids, the same threads and one turn after the other, so that a busy
machine slows all alike. Ids of new tokens are given, not chosen, so that none pays for sampling and
all do the same work.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Protocol

from spikeformers.errors import ConfigError


class System(Protocol):
    """A model in a program. ``begin`` starts a text anew; ``step`` appends one token."""

    def begin(self, ids: Sequence[int]) -> None:
        """Read a prompt up to the logits that follow it."""

    def step(self, token: int) -> None:
        """Append one token, up to the logits that follow it."""


class TorchSystem:
    """A Transformers model with its key-value cache."""

    def __init__(self, model: Any) -> None:
        self.model = model.eval()
        self._cache: Any = None

    def begin(self, ids: Sequence[int]) -> None:
        import torch

        with torch.inference_mode():
            found = self.model(
                input_ids=torch.tensor([list(ids)]), use_cache=True, logits_to_keep=1
            )
        self._cache = found.past_key_values

    def step(self, token: int) -> None:
        import torch

        with torch.inference_mode():
            self.model(
                input_ids=torch.tensor([[token]]), past_key_values=self._cache, use_cache=True
            )


@dataclass(frozen=True)
class Timing:
    """Measured times of one system; tokens per second are medians of the repeats."""

    tokens_per_second: float
    """By the clock on the wall."""
    slowest: float
    fastest: float
    cpu_tokens_per_second: float
    """By processor time, all threads together: steadier where other programs share the
    processors. It means something with one thread; more of them spin while they wait."""
    milliseconds: dict[str, float]
    """Of one token when decoding: p50, p90, p99. Of the whole prompt otherwise."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def time_systems(
    systems: Mapping[str, System],
    ids: Sequence[int],
    *,
    prompt_tokens: int,
    repeats: int = 5,
    warmup: int = 1,
) -> tuple[dict[str, Timing], dict[str, Timing]]:
    """Timings of reading the first ``prompt_tokens`` of ``ids``, and of the others one by one."""
    if not 0 < prompt_tokens <= len(ids) or repeats < 1:
        raise ConfigError(
            f"a prompt of 1 to {len(ids)} tokens and at least one repeat are needed; got "
            f"{prompt_tokens} and {repeats}."
        )
    reading: dict[str, list[Took]] = {name: [] for name in systems}
    stepping: dict[str, list[list[Took]]] = {name: [] for name in systems}
    for turn in range(warmup + repeats):
        for name, system in systems.items():
            took = _clock(partial(system.begin, ids[:prompt_tokens]))
            steps = [_clock(partial(system.step, token)) for token in ids[prompt_tokens:]]
            if turn >= warmup:
                reading[name].append(took)
                stepping[name].append(steps)
    prefill = {name: _timing(took, took, prompt_tokens) for name, took in reading.items()}
    new = len(ids) - prompt_tokens
    if not new:
        return prefill, {}
    decode = {}
    for name, runs in stepping.items():
        single = [one for steps in runs for one in steps]
        whole = [(sum(wall for wall, _ in steps), sum(cpu for _, cpu in steps)) for steps in runs]
        decode[name] = _timing(whole, single, new)
    return prefill, decode


Took = tuple[float, float]  # seconds by the clock on the wall, and of processor time


def _clock(work: Callable[[], None]) -> Took:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def _timing(whole: Sequence[Took], single: Sequence[Took], tokens: int) -> Timing:
    ordered = sorted(wall for wall, _ in single)

    def at(share: float) -> float:
        return 1e3 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    walls = [wall for wall, _ in whole]
    return Timing(
        tokens / statistics.median(walls),
        tokens / max(walls),
        tokens / min(walls),
        tokens / max(1e-9, statistics.median(cpu for _, cpu in whole)),
        {"p50": at(0.5), "p90": at(0.9), "p99": at(0.99)},
    )
