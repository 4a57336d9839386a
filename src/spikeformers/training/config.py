"""Every hyper-parameter of a run, with its default, in this one place."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from spikeformers.errors import ConfigError, nearest
from spikeformers.values import LARGEST_SEED, MOST_THREADS, misfit

CHOICES = {
    "schedule": ("cosine", "linear", "constant"),
    "precision": ("auto", "fp32", "bf16"),
    "strategy": ("auto", "single", "ddp", "fsdp"),
    "device": ("auto", "cpu", "cuda", "mps"),
}
POSITIVE = (
    *("steps", "batch_size", "learning_rate", "eps", "grad_clip", "keep_checkpoints"),
    *("gradient_accumulation", "log_every"),
)
NOT_NEGATIVE = (
    *("tokens", "seed", "weight_decay", "eval_every", "eval_batches", "save_every", "threads"),
    "schedule_steps",
)
FRACTIONS = ("min_learning_rate_ratio", "warmup_ratio", "mask_probability")

TYPES: dict[str, Any] = {
    **{"bool": bool, "str": str, "int": int, "float": float},
    "tuple[float, float]": tuple[float, float],
}
"""Annotations of the config classes, as they are checked."""

RESUMABLE_CHANGES = ("eval_every", "eval_batches", "log_every", "save_every", "keep_checkpoints")
"""What a resumed run may change and still end with the same weights, bit for bit."""

ROUNDING_CHANGES = ("strategy", "device", "threads", "gradient_accumulation")
"""What a resumed run may change because the machine did; sums are then rounded otherwise."""

LENGTH = ("steps", "tokens", "schedule_steps")
"""What a resumed run may change so that it gets longer, where earlier steps keep their rates."""


@dataclass(frozen=True)
class TrainConfig:
    """How to train. Counts of zero switch the thing off where that makes sense.

    Raises ``ConfigError`` for a value out of range or of the wrong type.
    """

    steps: int = 2000  # optimiser steps
    tokens: int = 0  # budget in training tokens; when set, it decides the steps
    batch_size: int = 32  # windows in one step, over all processes
    context: int = 128  # tokens in one window
    gradient_accumulation: int = 1  # parts in which each process computes its share

    learning_rate: float = 1e-3
    min_learning_rate_ratio: float = 0.1  # of learning_rate, reached at the last step
    schedule: str = "cosine"
    schedule_steps: int = 0  # that warm-up and schedule span; 0: all. Later ones keep the last rate
    warmup_ratio: float = 0.05  # of the schedule's steps, linear from zero
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1  # on matrices; never on norms, biases, thresholds
    grad_clip: float = 1.0  # largest gradient norm
    mask_probability: float = 0.15  # masked models only
    seed: int = 0

    eval_every: int = 250  # steps; 0: at the end only
    eval_batches: int = 20  # batches of validation windows; 0: all of them
    save_every: int = 250  # steps; 0: at the end only
    keep_checkpoints: int = 2
    log_every: int = 10  # steps

    precision: str = "auto"  # auto: bf16 on CUDA that has it, else fp32
    compile: bool = False
    strategy: str = "auto"  # auto: ddp under torchrun, else single
    device: str = "auto"  # auto: CUDA where there is one, else the CPU
    threads: int = 0  # CPU threads of each process; 0: as they are

    def __post_init__(self) -> None:
        for field in fields(self):
            value = typed(field.name, str(field.type), getattr(self, field.name))
            object.__setattr__(self, field.name, value)
        for name, known in CHOICES.items():
            if (value := getattr(self, name)) not in known:
                raise ConfigError(
                    f"{name} is {value!r}; it must be one of {', '.join(known)}."
                    f"{nearest(value, known)}"
                )
        for name in POSITIVE:
            require(getattr(self, name) > 0, name, getattr(self, name), "greater than 0")
        for name in NOT_NEGATIVE:
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or greater")
        for name in FRACTIONS:
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "between 0 and 1")
        for name, most in (("threads", MOST_THREADS), ("seed", LARGEST_SEED)):
            require(getattr(self, name) <= most, name, getattr(self, name), f"at most {most}")
        require(self.mask_probability > 0, "mask_probability", 0, "greater than 0")
        require(all(0 <= b < 1 for b in self.betas), "betas", self.betas, "in [0, 1)")
        require(self.context >= 2, "context", self.context, "2 or greater")
        require(
            self.batch_size % self.gradient_accumulation == 0,
            "batch_size",
            self.batch_size,
            f"a multiple of gradient_accumulation ({self.gradient_accumulation})",
        )

        at_end = 1.0 if self.schedule == "constant" else self.min_learning_rate_ratio
        require(
            at_end > 0 or self.total_steps <= self.schedule_span,
            "schedule_steps",
            self.schedule_steps,
            f"at least the {self.total_steps:,} steps of the run, as this schedule ends at a "
            "learning rate of 0, which trains nothing (min_learning_rate_ratio)",
        )

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.context

    @property
    def total_steps(self) -> int:
        return math.ceil(self.tokens / self.tokens_per_step) if self.tokens else self.steps

    @property
    def schedule_span(self) -> int:
        """Steps that warm-up and schedule span."""
        return self.schedule_steps or self.total_steps

    def continued(self, changes: Mapping[str, Any]) -> TrainConfig:
        """This config with ``changes``; more steps than before keep the schedule as it was.

        So the steps before have the rates that they had, and the new ones the schedule's last.
        """
        values = self.as_dict() | ({"tokens": 0} if "steps" in changes else {}) | dict(changes)
        if "schedule_steps" not in changes:
            later = TrainConfig.from_dict(values | {"schedule_steps": 0})
            if later.total_steps > self.total_steps:
                values["schedule_steps"] = self.schedule_span
        return TrainConfig.from_dict(values)

    def as_dict(self) -> dict[str, Any]:
        """The values as JSON and YAML can hold them."""
        return dataclasses.asdict(self) | {"betas": list(self.betas)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Build from plain values; an unknown key is a ``ConfigError`` that names the nearest."""
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                raise ConfigError(
                    f"Unknown training key {key!r}.{nearest(str(key), known)} "
                    f"Known: {', '.join(known)}."
                )
        return cls(**values)


def require(holds: bool, name: str, value: object, wanted: str) -> None:
    """Raise ``ConfigError`` unless the condition on ``name`` holds."""
    if not holds:
        raise ConfigError(f"{name} is {value!r}; it must be {wanted}.")


def typed(name: str, kind: str, value: Any) -> Any:
    """``value`` as the field's type. YAML reads 1e-3 as text, so numbers in text are taken."""
    problem = ConfigError(misfit(name, value, TYPES[kind]))
    if kind == "bool" or isinstance(value, bool):
        if kind != "bool" or not isinstance(value, bool):
            raise problem
        return value
    if kind == "str":
        if not isinstance(value, str):
            raise problem
        return value
    try:
        if kind.startswith("tuple"):
            first, second = map(float, value)
            if not (math.isfinite(first) and math.isfinite(second)):
                raise problem
            return (first, second)
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise problem from None
    if not math.isfinite(number) or (kind == "int" and number != int(number)):
        raise problem
    return int(value if isinstance(value, int) else number) if kind == "int" else number
