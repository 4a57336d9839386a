"""`spikeformers.distill` and `spikeformers.convert`, for models in memory or by name.

With names they are the functions of this package; with models those of `training.distillation` and
`conversion`, for which the caller prepares text and folders.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from spikeformers.conversion import Converted, Plan, Rule
from spikeformers.conversion import convert as convert_model
from spikeformers.progress import Tell
from spikeformers.runs.conversion import ConversionResult
from spikeformers.runs.conversion import convert as convert_by_name
from spikeformers.runs.distillation import distill as distill_by_name
from spikeformers.runs.prepared import RunResult
from spikeformers.training import TrainConfig, TrainResult
from spikeformers.training.distillation import SpADConfig
from spikeformers.training.distillation import distill as distill_model

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from spikeformers.data import TokenStore


@overload
def distill(student: str = "", teacher: str | Path = "", **options: Any) -> RunResult: ...


@overload
def distill(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    store: TokenStore,
    tokenizer: Any,
    out: str | Path,
    config: TrainConfig,
    *,
    spad: SpADConfig | None = None,
    cache_teacher: str = "",
    **options: Any,
) -> TrainResult: ...


def distill(
    student: Any = "", teacher: Any = "", *arguments: Any, **options: Any
) -> RunResult | TrainResult:
    """Train a student from a teacher, by Spike-Aware Alignment Distillation.

    With the name of a preset, ``distill(student, teacher, out=..., data=...)`` is
    `spikeformers.runs.distill`: all that the verb ``distill`` does. With two models,
    ``distill(student, teacher, store, tokenizer, out, config)`` is
    `spikeformers.training.distillation.distill`, which trains ``student`` in place.
    """
    by_name = isinstance(student, str)
    return (distill_by_name if by_name else distill_model)(student, teacher, *arguments, **options)


@overload
def convert(
    model: str | Path, *, out: str | Path, calibration: str | Path, **options: Any
) -> ConversionResult: ...


@overload
def convert(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    windows: Tensor,
    plan: Plan,
    out: str | Path,
    *,
    rule: Rule | None = None,
    resume: bool = False,
    progress: Tell | None = None,
) -> Converted: ...


def convert(model: Any, *arguments: Any, **options: Any) -> ConversionResult | Converted:
    """Convert a dense model into a spiking one.

    With a folder or a name on the hub, ``convert(model, out=..., calibration=...)`` is
    `spikeformers.runs.convert`: all that the verb ``convert`` does, its report included. With a
    model, ``convert(model, tokenizer, windows, plan, out)`` is `spikeformers.conversion.convert`.
    """
    by_name = isinstance(model, (str, Path))
    return (convert_by_name if by_name else convert_model)(model, *arguments, **options)
