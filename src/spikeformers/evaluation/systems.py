"""Programs that run a language model, timed in turns: prompt reading and decoding, batch 1.

Every system gets the same token ids and number of threads, and they take turns, so that a busy
machine slows all of them equally. New tokens are given, not sampled, so that all do the same work.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Protocol

from spikeformers.errors import ConfigError
from spikeformers.meters import Seconds, clock
from spikeformers.progress import Move, watched


class System(Protocol):
    """A model in a program. ``begin`` starts a new text; ``step`` appends one token."""

    def begin(self, ids: Sequence[int]) -> None:
        """Read a prompt up to the logits that follow it."""

    def step(self, token: int) -> None:
        """Append one token, up to the logits that follow it."""


class TorchSystem:
    """A Transformers model with its key-value cache, on the device where it is."""

    def __init__(self, model: Any) -> None:
        self.model = model.eval()
        self._cache: Any = None

    @property
    def weight_bytes(self) -> int:
        """Bytes of all parameters and buffers."""
        return weight_bytes_of(self.model)

    def begin(self, ids: Sequence[int]) -> None:
        import torch

        with torch.inference_mode():
            input_ids = torch.tensor([list(ids)], device=self.model.device)
            output = self.model(input_ids=input_ids, use_cache=True, logits_to_keep=1)
        self._cache = output.past_key_values
        wait_for(self.model)

    def step(self, token: int) -> None:
        import torch

        with torch.inference_mode():
            input_ids = torch.tensor([[token]], device=self.model.device)
            self.model(input_ids=input_ids, past_key_values=self._cache, use_cache=True)
        wait_for(self.model)


class GreedySystem:
    """A Transformers model that decodes by itself: ``step`` appends its most likely next token."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._last: Any = None

    def begin(self, ids: Sequence[int]) -> None:
        """Read a prompt."""
        import torch

        self._forward(torch.tensor([list(ids)], device=self.model.device), None)

    def step(self, token: int) -> None:
        """Append the most likely token; ``token`` is ignored."""
        self._forward(self._last.logits[:, -1:].argmax(-1), self._last.past_key_values)

    def _forward(self, ids: Any, cache: Any) -> None:
        import torch

        options = {} if cache is None else {"past_key_values": cache}
        with torch.no_grad():
            self._last = self.model(input_ids=ids, use_cache=True, **options)
        wait_for(self.model)


class ForwardSystem:
    """A model that reads a whole batch at once (masked text, images): one forward pass per turn."""

    def __init__(self, model: Any, batch: Mapping[str, Any]) -> None:
        self.model = model.eval()
        self._batch = {name: x.to(model.device) for name, x in batch.items()}

    @property
    def weight_bytes(self) -> int:
        """Bytes of all parameters and buffers."""
        return weight_bytes_of(self.model)

    def begin(self, ids: Sequence[int]) -> None:
        """One pass over the batch of the constructor; ``ids`` are ignored."""
        import torch

        with torch.inference_mode():
            self.model(**self._batch)
        wait_for(self.model)

    def step(self, token: int) -> None:
        """Raises ConfigError, because there are no single tokens."""
        raise ConfigError("a model that reads a whole batch at once does not decode.")


def weight_bytes_of(model: Any) -> int:
    """Bytes of a torch model's parameters and buffers, tied tensors once."""
    stored = (*model.parameters(), *model.buffers())
    return sum(x.numel() * x.element_size() for x in stored)


def wait_for(model: Any) -> None:
    """Wait until the accelerator has finished; returns at once on a CPU."""
    if model.device.type == "cuda":
        import torch

        torch.cuda.synchronize(model.device)


@dataclass(frozen=True)
class Timing:
    """Measured times of one system; tokens per second are medians of the repeats."""

    tokens_per_second: float
    """By wall-clock time."""
    slowest: float
    fastest: float
    cpu_tokens_per_second: float
    """By processor time of all threads: steadier if other programs share the processors. Only
    meaningful with one thread; several spin while they wait."""
    milliseconds: dict[str, float]
    """p50, p90 and p99 of one token when decoding, of the prompt otherwise."""

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
    progress: Move | None = None,
) -> tuple[dict[str, Timing], dict[str, Timing]]:
    """Timings of reading the first ``prompt_tokens`` of ``ids``, and of the others one by one.

    ``progress`` receives the turns taken and the total.
    """
    if not 0 < prompt_tokens <= len(ids) or repeats < 1:
        raise ConfigError(
            f"timing needs a prompt of 1 to {len(ids)} tokens and at least one repeat; got "
            f"{prompt_tokens} and {repeats}."
        )
    reading: dict[str, list[Seconds]] = {name: [] for name in systems}
    stepping: dict[str, list[list[Seconds]]] = {name: [] for name in systems}
    for turn in watched(range(warmup + repeats), progress):
        for name, system in systems.items():
            prompt = clock(partial(system.begin, ids[:prompt_tokens]))
            steps = [clock(partial(system.step, token)) for token in ids[prompt_tokens:]]
            if turn >= warmup:
                reading[name].append(prompt)
                stepping[name].append(steps)
    prefill = {name: timing_of(times, times, prompt_tokens) for name, times in reading.items()}
    new = len(ids) - prompt_tokens
    if not new:
        return prefill, {}
    decode = {}
    for name, runs in stepping.items():
        calls = [step for steps in runs for step in steps]
        sums = [Seconds(*map(sum, zip(*steps, strict=True))) for steps in runs]
        decode[name] = timing_of(sums, calls, new)
    return prefill, decode


def timing_of(repeats: Sequence[Seconds], calls: Sequence[Seconds], tokens: int) -> Timing:
    """The timing of ``repeats`` of ``tokens`` tokens each, and of their single ``calls``."""
    ordered = sorted(seconds.wall for seconds in calls)

    def at(share: float) -> float:
        return 1e3 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    walls = [seconds.wall for seconds in repeats]
    return Timing(
        tokens / statistics.median(walls),
        tokens / max(walls),
        tokens / min(walls),
        tokens / max(1e-9, statistics.median(seconds.cpu for seconds in repeats)),
        {"p50": at(0.5), "p90": at(0.9), "p99": at(0.99)},
    )


@dataclass(frozen=True)
class Speed:
    """Measured wall-clock speed of greedy decoding, batch 1, with a key-value cache."""

    tokens_per_second: float
    """Median of the repeats."""
    slowest: float
    fastest: float
    prompt_tokens: int
    new_tokens: int
    repeats: int
    batch_size: int
    threads: int
    device: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def decoding_speed(
    model: Any, prompt: Sequence[int], *, new_tokens: int = 64, repeats: int = 5, warmup: int = 1
) -> Speed:
    """Speed of one causal model after the token ids of ``prompt``."""
    return decoding_speeds(
        {"model": model}, prompt, new_tokens=new_tokens, repeats=repeats, warmup=warmup
    )["model"]


def decoding_speeds(
    models: Mapping[str, Any],
    prompt: Sequence[int],
    *,
    new_tokens: int = 64,
    repeats: int = 5,
    warmup: int = 1,
    progress: Move | None = None,
) -> dict[str, Speed]:
    """Speeds of several Transformers models after the same prompt, by `time_systems`.

    Reading the prompt is not included. An end-of-text token does not stop a model, so that every
    repeat does the same work. ``progress`` receives the turns taken and the total. Raises
    ConfigError for a wrong request.
    """
    import torch

    if not prompt or new_tokens < 1 or repeats < 1:
        raise ConfigError(
            "timing needs a prompt of at least one token, and new_tokens and repeats of at least "
            f"1; got {len(prompt)}, {new_tokens} and {repeats}."
        )
    for name, model in models.items():
        longest = getattr(model.config, "max_position_embeddings", None)
        if longest is not None and len(prompt) + new_tokens > longest:
            raise ConfigError(
                f"{len(prompt)} prompt tokens and {new_tokens} new ones do not fit the {longest} "
                f"positions of {name}; request fewer."
            )
    training = {name: model.training for name, model in models.items()}
    try:
        systems = {name: GreedySystem(model.eval()) for name, model in models.items()}
        ids = [*prompt, *[0] * new_tokens]  # as many steps; each system chooses its own tokens
        _, timings = time_systems(
            systems, ids, prompt_tokens=len(prompt), repeats=repeats, warmup=warmup,
            progress=progress,
        )  # fmt: skip
    finally:
        for name, model in models.items():
            model.train(training[name])
    return {
        name: Speed(
            timing.tokens_per_second, timing.slowest, timing.fastest,
            len(prompt), new_tokens, repeats, 1, torch.get_num_threads(), str(models[name].device),
        )
        for name, timing in timings.items()
    }  # fmt: skip
