"""A text to be written, and what the engine's thread reports of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from spikeformers.serving.logprobs import TokenLogprob
from spikeformers.serving.problems import Problem
from spikeformers.serving.spikes import SpikeUsage


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn; `spikeformers.engine.sampling` explains each."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    bias: Mapping[int, float] = field(default_factory=dict)
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0


@dataclass(frozen=True)
class Job:
    """One text: a prompt, and how it continues."""

    ids: tuple[int, ...]
    max_new: int
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    """Likeliest tokens reported for each token, 0 for its own only; None: no report."""
    prompt_logprobs: bool = False
    """Also for the prompt, which is then read anew, whatever the cache holds."""
    spike_details: bool = False


@dataclass(frozen=True)
class PromptRead:
    """The prompt was read; ``logprobs`` of its tokens if they are wanted, None for the first."""

    cached: int
    """Tokens that came from the prefix cache."""
    logprobs: tuple[TokenLogprob | None, ...] = ()


@dataclass(frozen=True)
class NewToken:
    """A token was drawn; ``text`` is what is certain by now, and may be empty."""

    token: int
    text: str
    logprob: TokenLogprob | None = None
    spikes: Mapping[str, object] | None = None


@dataclass(frozen=True)
class Ended:
    """The text is complete; ``text`` is what was still held back."""

    text: str
    reason: str
    """"end", "stop", "length" or "context", as in `spikeformers.generation.Generation`."""
    tokens: int
    usage: SpikeUsage


@dataclass(frozen=True)
class Failed:
    """The text cannot be completed."""

    problem: Problem


Event = PromptRead | NewToken | Ended | Failed


@dataclass(eq=False)
class Ticket:
    """A submitted job. ``deadline`` is a time of the monotonic clock."""

    job: Job
    index: int
    deadline: float
    cancelled: bool = False
