"""Spike-Aware Alignment Distillation: a student learns from a frozen teacher (``losses.py``).

config   the options           mapping      which layers, which sizes   objective  the weighted sum
teacher  its outputs, cached   projections  between the two sizes       losses     the equations
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spikeformers.errors import ConfigError
from spikeformers.training.distillation.config import TERMS, SpADConfig, without

if TYPE_CHECKING:
    from pathlib import Path

    from spikeformers.data import TokenStore
    from spikeformers.training.config import TrainConfig
    from spikeformers.training.distillation.objective import Distillation
    from spikeformers.training.loop import TrainResult

__all__ = ["TERMS", "Distillation", "SpADConfig", "distill", "without"]


def distill(
    student: Any,
    teacher: Any,
    store: TokenStore,
    tokenizer: Any,
    out: str | Path,
    config: TrainConfig,
    *,
    spad: SpADConfig | None = None,
    cache_teacher: str = "",
    **options: Any,
) -> TrainResult:
    """Train a causal ``student``, in place, by Spike-Aware Alignment Distillation (SpAD).

    Both models read the tokens of ``store``, made by the teacher's ``tokenizer``. ``spad`` weights
    the five terms; the default has the weights of a published reimplementation. ``cache_teacher``
    is a folder for the teacher's outputs, "auto", or "" for none; ``options`` are passed to `train`
    (resume, progress, on_step). Raises ConfigError for models with different vocabularies, and the
    errors of `train`.

    BiSpikCLM, https://arxiv.org/abs/2605.13859.
    """
    from spikeformers.training.distillation.objective import Distillation
    from spikeformers.training.loop import train

    tokens, teacher_tokens = student.config.vocab_size, teacher.config.vocab_size
    if tokens != teacher_tokens:
        raise ConfigError(
            f"the student has {tokens:,} tokens and the teacher {teacher_tokens:,}; a student "
            "learns the teacher's probabilities token by token. Build it with the teacher's "
            "vocab_size."
        )
    spad = spad or SpADConfig()
    if "saa" in spad.active:  # only eager attention returns its maps
        for model in (student, teacher):
            model.set_attn_implementation("eager")
    task = Distillation(student, teacher, spad, config.seed, cache_teacher)
    return train(student, store, tokenizer, out, config, task=task, **options)


def __getattr__(name: str) -> Any:
    if name == "Distillation":
        from spikeformers.training.distillation.objective import Distillation

        return Distillation
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
