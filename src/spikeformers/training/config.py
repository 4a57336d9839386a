"""All hyper-parameters of a run, with their defaults."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from spikeformers.errors import ConfigError, nearest
from spikeformers.training.config_base import ConfigBase, require
from spikeformers.values import LARGEST_SEED, MOST_THREADS

CHOICES = {
    "optimizer": ("adamw", "muon"),
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
    *("schedule_steps", "device_tflops"),
)
FRACTIONS = ("min_learning_rate_ratio", "warmup_ratio", "mask_probability", "muon_momentum")

RESUMABLE_CHANGES = (
    *("eval_every", "eval_batches", "log_every", "save_every", "keep_checkpoints"),
    *("activation_checkpointing", "async_checkpoints", "device_tflops"),
)
"""Fields that a resumed run may change and still end with the same weights, bit for bit."""

ROUNDING_CHANGES = ("strategy", "device", "threads", "gradient_accumulation")
"""Fields that a resumed run may change for another machine; rounding of sums then differs."""

LENGTH = ("steps", "tokens", "schedule_steps")
"""Fields that a resumed run may change to train longer, if earlier steps keep their rates."""


@dataclass(frozen=True)
class TrainConfig(ConfigBase):
    """Hyper-parameters of training. For some counts, as commented, 0 has a special meaning.

    Raises ``ConfigError`` for a value out of range or of the wrong type.
    """

    key_name: ClassVar[str] = "training key"

    steps: int = 2000  # optimiser steps
    tokens: int = 0  # budget in training tokens; when set, it decides the steps
    batch_size: int = 32  # windows in one step, over all processes
    context: int = 128  # tokens in one window
    gradient_accumulation: int = 1  # parts into which each process divides its share

    optimizer: str = "adamw"  # muon: matrices of the blocks by Muon, all else by AdamW
    muon_momentum: float = 0.95
    learning_rate: float = 1e-3
    min_learning_rate_ratio: float = 0.1  # of learning_rate, reached at the last step
    schedule: str = "cosine"
    schedule_steps: int = 0  # of warm-up and schedule; 0: all. Later steps keep the last rate
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
    async_checkpoints: bool = False  # written by a thread while training continues
    log_every: int = 10  # steps

    precision: str = "auto"  # auto: bf16 on CUDA devices that have it, else fp32
    compile: bool = False
    activation_checkpointing: bool = False  # compute each block twice, keep only its input
    strategy: str = "auto"  # auto: ddp under torchrun, else single
    device: str = "auto"  # auto: CUDA if available, else the CPU
    threads: int = 0  # CPU threads of each process; 0: unchanged
    device_tflops: float = 0.0  # peak of one device, for MFU; 0: of its name, if it is a known GPU

    def __post_init__(self) -> None:
        self.convert_fields()
        for name, choices in CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise ConfigError(
                    f"{name} is {value!r}; it must be one of {', '.join(choices)}."
                    f"{nearest(value, choices)}"
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
        """Number of steps of warm-up and schedule."""
        return self.schedule_steps or self.total_steps

    def continued(self, changes: Mapping[str, Any]) -> TrainConfig:
        """This config with ``changes``; with more steps than before the schedule is unchanged.

        The earlier steps keep their learning rates, and the new steps have the schedule's last.
        """
        values = self.as_dict() | ({"tokens": 0} if "steps" in changes else {}) | dict(changes)
        if "schedule_steps" not in changes:
            later = TrainConfig.from_dict(values | {"schedule_steps": 0})
            if later.total_steps > self.total_steps:
                values["schedule_steps"] = self.schedule_span
        return TrainConfig.from_dict(values)
