"""Checks of a config's fields; each error names the field, its value, and what is allowed."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from functools import cache
from typing import Any, get_type_hints

import torch
from transformers import GenerationConfig

from spikeformers.errors import ConfigError, SpikeformersError, nearest
from spikeformers.foreign import foreign, one_line
from spikeformers.values import fits, in_words, require_kind, shortened

_BY_TRANSFORMERS = frozenset(
    {
        *("model_type", "auto_map", "quantization_config", "name_or_path", "num_labels"),
        *("torch_dtype", "attn_implementation", "experts_implementation", "output_attentions"),
        *("per_layer_config", "tokenizer_class", "task_specific_params", "is_decoder"),
    }
)
"""Keys of a config.json that are not fields of a config class, but that Transformers writes or
accepts. It accepts those of generation as well, and keeps keys that begin with an underscore."""
_ONE_TYPE = re.compile(
    r"Field '(?P<key>[^']+)' expected (?P<kind>\w+), got \w+ \(value: (?P<value>.*)\)"
)
_SEVERAL_TYPES = re.compile(
    r"Field '(?P<key>[^']+)' with value (?P<value>.*?) doesn't match any type in "
    r"\((?P<kinds>.*?)\)\. Errors"
)
_TYPE_NAME = re.compile(r"(?:<class '(?:\w+\.)*)?(\w+)(?:'>|\[[^\]]*\])")
_MOST_STEPS = 4096
_MOST_LABELS = 1_000_000


def check_labels(values: Mapping[str, Any]) -> None:
    """ConfigError for a count of labels that Transformers would write out one by one."""
    count = values.get("num_labels")
    if count is not None and not (fits(count, int) and 0 <= count <= _MOST_LABELS):
        raise ConfigError(
            f"num_labels is {shortened(count)}; it must be a whole number up to {_MOST_LABELS:,}."
        )


def check_fields(config: Any, others: Mapping[str, Any]) -> None:
    """ConfigError for a field of another type than declared, or a key that is not a field.

    ``others`` are keys and values beside the fields: Transformers would keep them without using
    them.
    """
    check_labels(others)
    kind: Any = type(config)
    own_fields = {field.name for field in fields(kind)}
    for key in others:
        if key not in own_fields and not _is_of_transformers(key, kind):
            own = sorted(own_fields - _inherited())
            hint = nearest(key, own) or f" Its keys are {', '.join(own)}."
            raise ConfigError(f"{key!r} is not a key of a {kind.model_type} config.{hint}")
    for key, hint in _hints(kind).items():
        require_kind(key, getattr(config, key), hint)
    dtype = config.dtype
    if isinstance(dtype, str) and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise ConfigError(f"dtype is {shortened(dtype)}; it must name a type of PyTorch: float32.")


def _is_of_transformers(key: str, kind: Any) -> bool:
    generation: dict[str, Any] = GenerationConfig._get_default_generation_params()
    return (
        key.startswith("_")
        or key in _BY_TRANSFORMERS
        or key in generation
        or key in kind.attribute_map
    )


@cache
def _inherited() -> frozenset[str]:
    from transformers import PreTrainedConfig

    return frozenset(field.name for field in fields(PreTrainedConfig))


@cache
def _hints(kind: type) -> Mapping[str, Any]:
    """Name and type of each field of a config class."""
    hints = get_type_hints(kind, localns={"torch": torch})  # named in PreTrainedConfig's only
    return {field.name: hints[field.name] for field in fields(kind)}  # type: ignore[arg-type]


@contextmanager
def config_errors(what: object, error: type[SpikeformersError] = ConfigError) -> Iterator[None]:
    """Raise ``error``, which begins with ``what``, for a config that cannot be made.

    Transformers and huggingface_hub wrap errors in names of their validators; they are removed
    here.
    """
    try:
        with foreign(what, error):
            try:
                yield
            except SpikeformersError:
                raise
            except Exception as cause:
                raise ValueError(plainly(cause)) from cause
    except SpikeformersError as refused:
        if isinstance(refused, error):
            raise
        raise error(f"{what}: {refused}") from refused


def plainly(error: BaseException) -> str:
    """What is wrong with a config, without the names of the validators that noticed it."""
    inner = error.__cause__
    if type(error).__name__.startswith("StrictDataclass") and inner is not None:
        return plainly(inner)
    message = " ".join(str(error).split())
    if match := _ONE_TYPE.match(message):
        return f"{match['key']} is {match['value']}; it must be {_words(match['kind'])}"
    if match := _SEVERAL_TYPES.match(message):
        kinds = dict.fromkeys(map(_words, _TYPE_NAME.findall(match["kinds"])))
        return f"{match['key']} is {match['value']}; it must be {' or '.join(kinds)}"
    return one_line(error)


def _words(name: str) -> str:
    """The name of a type as huggingface_hub prints it, in words."""
    plain = {"int": int, "float": float, "str": str, "bool": bool, "NoneType": None}
    mappings = {"dict": dict, "RopeParameters": dict}
    base = name.partition("[")[0]
    return in_words((plain | mappings | {"list": list, "tuple": tuple}).get(base, base))


def few_steps(config: Any) -> None:
    """ConfigError unless the simulation steps are few enough to be run."""
    at_least_one(config, "steps")
    if config.steps > _MOST_STEPS:
        raise ConfigError(f"steps must be at most {_MOST_STEPS}, not {config.steps}.")


def one_of(config: Any, key: str, choices: tuple[str, ...]) -> None:
    """ConfigError unless the field is one of ``choices``."""
    value = getattr(config, key)
    if value not in choices:
        raise ConfigError(
            f"{key}={value!r} is unknown; one of {', '.join(choices)}.{nearest(value, choices)}"
        )


def at_least_one(config: Any, key: str) -> None:
    """ConfigError unless the field is a whole number from 1."""
    value = getattr(config, key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigError(f"{key} must be a whole number, not {shortened(value)}.")
    if value < 1:
        raise ConfigError(f"{key} must be at least 1, not {value}.")


def between(config: Any, key: str, low: float, high: float) -> None:
    """ConfigError unless the field is a number inside (low, high)."""
    value = getattr(config, key)
    if not isinstance(value, (int, float)) or not low < value < high:
        span = "greater than 0" if high == math.inf else "between 0 and 1"
        raise ConfigError(f"{key} must be a number {span}, not {value!r}.")
