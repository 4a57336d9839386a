"""Models, one row each: everything that other rooms ask about a kind of model.

A new model of the package is its file and a row here; one of yours is a ``register_model(...)``
call, or an entry point of the group ``spikeformers.models`` whose value is a `ModelEntry`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import transformers
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from spikeformers.errors import ConfigError
from spikeformers.models import _spiking_vit_config, bispikclm, neurtransformer, spiking_vit
from spikeformers.models import wd_spikingformer as wd
from spikeformers.models import we_spikingformer as we
from spikeformers.models._auto_map import state_classes
from spikeformers.registry import Registry

Task = Literal["causal", "masked", "images"]
AUTO_CLASS: dict[Task, str] = {
    "causal": "AutoModelForCausalLM",
    "masked": "AutoModelForMaskedLM",
    "images": "AutoModelForImageClassification",
}
"""The Auto class of Transformers that a task's model is built and loaded with."""


def _joined(sizes: Mapping[str, Any], choices: Mapping[str, Any]) -> dict[str, Any]:
    return {**sizes, **choices}


@dataclass(frozen=True)
class ModelEntry:
    """The facts about a kind of model, looked up by its config's ``model_type``."""

    title: str
    """Its name in sentences: "BiSpikCLM"."""
    paper: str
    """Where it comes from: an address, or "a dense twin"."""
    task: Task
    """What it is trained on: the next token, masked tokens, or images."""
    config: type[PreTrainedConfig]
    heads: Mapping[str, type[PreTrainedModel]] = field(default_factory=dict)
    """Its classes, by the Auto class of Transformers that creates each ("AutoModel": the backbone).
    Empty if Transformers knows the model already."""
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Sizes by name: fields of the config."""
    engine: str = ""
    """"module:function" that describes it to the engine, ``(model, weights) -> (description,
    tensors)``; empty if the engine does not run it."""
    paper_tokens: int = 0
    """Training tokens that the paper states for its language models; 0 if it states none."""
    preset_fields: Callable[[Mapping[str, Any], Mapping[str, Any]], Mapping[str, Any]] = _joined
    """``(sizes, choices) -> fields`` of the config of a preset of these sizes, with the fields that
    are chosen beside it on top; more than the two if presets are more than sizes."""

    @property
    def causal_class(self) -> type[PreTrainedModel] | None:
        """What AutoModelForCausalLM creates of its config; None of a model of another task."""
        if self.heads or self.task != "causal":
            return self.heads.get("AutoModelForCausalLM")
        kind: type[PreTrainedModel] = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[self.config]
        return kind

    @property
    def describe(self) -> Callable[..., Any]:
        """The function that ``engine`` names. Raises ConfigError if it cannot be imported."""
        module, _, name = self.engine.partition(":")
        try:
            function: Callable[..., Any] = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(
                f"{self.title} names {self.engine!r} to describe it to the engine, which cannot "
                f"be imported: {error}."
            ) from error
        return function


def _twin(title: str, task: Task, config: type[PreTrainedConfig], engine: str = "") -> ModelEntry:
    return ModelEntry(title, "a dense twin", task, config, engine=engine)


_WTA = "https://arxiv.org/abs/2604.11321"
_DENSE = "spikeformers.export.dense:describe"
_OWN = (
    ModelEntry(
        "WD-Spikingformer",
        _WTA,
        "causal",
        wd.WDSpikingformerConfig,
        {
            "AutoModel": wd.WDSpikingformerModel,
            "AutoModelForCausalLM": wd.WDSpikingformerForCausalLM,
        },
        wd.PRESETS,
        "spikeformers.export.spikingformer:describe",
        paper_tokens=100_000_000,  # FineWeb-Edu, in the comparison of the 0.4 B model
        preset_fields=wd.preset_fields,
    ),
    ModelEntry(
        "WE-Spikingformer",
        _WTA,
        "masked",
        we.WESpikingformerConfig,
        {
            "AutoModel": we.WESpikingformerModel,
            "AutoModelForMaskedLM": we.WESpikingformerForMaskedLM,
            "AutoModelForSequenceClassification": we.WESpikingformerForSequenceClassification,
        },
        we.PRESETS,
    ),
    ModelEntry(
        "BiSpikCLM",
        "https://arxiv.org/abs/2605.13859",
        "causal",
        bispikclm.BiSpikCLMConfig,
        {
            "AutoModel": bispikclm.BiSpikCLMModel,
            "AutoModelForCausalLM": bispikclm.BiSpikCLMForCausalLM,
        },
        bispikclm.PRESETS,
        "spikeformers.export.bispikclm:describe",
    ),
    ModelEntry(
        "NeurTransformer",
        "https://arxiv.org/abs/2510.00133",
        "causal",
        neurtransformer.NeurTransformerConfig,
        {"AutoModelForCausalLM": neurtransformer.NeurTransformerForCausalLM},
        engine="spikeformers.export.neurtransformer:describe",
    ),
    ModelEntry(
        "Spiking vision transformer, A2OS2A",
        "https://arxiv.org/abs/2503.00226",
        "images",
        _spiking_vit_config.SpikingViTConfig,
        {
            "AutoModel": spiking_vit.SpikingViTModel,
            "AutoModelForImageClassification": spiking_vit.SpikingViTForImageClassification,
        },
        _spiking_vit_config.PRESETS,
    ),
    _twin("GPT-2", "causal", transformers.GPT2Config, _DENSE),
    _twin("GPT-NeoX", "causal", transformers.GPTNeoXConfig, _DENSE),
    _twin("BERT", "masked", transformers.BertConfig),
    _twin("RoFormer", "masked", transformers.RoFormerConfig),
    _twin("ViT", "images", transformers.ViTConfig),
)


def _join(model_type: str, entry: ModelEntry) -> None:
    """Check a row, then register its classes with Transformers."""
    if not isinstance(entry, ModelEntry):
        raise ConfigError(f"model {model_type!r} must be a ModelEntry, not {entry!r}.")
    if entry.config.model_type != model_type:
        raise ConfigError(
            f"the config of model {model_type!r} has model_type={entry.config.model_type!r}; give "
            "both the same name."
        )
    if entry.task not in get_args(Task):
        raise ConfigError(
            f"model {model_type!r} has task={entry.task!r}; one of {', '.join(get_args(Task))}."
        )
    if entry.heads and AUTO_CLASS[entry.task] not in entry.heads:
        raise ConfigError(
            f"model {model_type!r} has task={entry.task!r} and no head {AUTO_CLASS[entry.task]}."
        )
    others = [other for other in MODELS.values() if other.config.model_type != model_type]
    if taken := [name for name in entry.presets if any(name in o.presets for o in others)]:
        raise ConfigError(f"preset {taken[0]!r} is another model's already; rename yours.")
    _make_known(entry)


def _make_known(entry: ModelEntry) -> None:
    if entry.heads:
        AutoConfig.register(entry.config.model_type, entry.config, exist_ok=True)
    for auto, model in entry.heads.items():
        getattr(transformers, auto).register(entry.config, model, exist_ok=True)


MODELS: Registry[ModelEntry] = Registry(
    "model", "spikeformers.models", {entry.config.model_type: entry for entry in _OWN}, _join
)


def register_model(entry: ModelEntry) -> ModelEntry:
    """Register a model of your own with presets, Auto classes, training, energy, audit and reports.

    Raises ConfigError for a ``model_type`` or a preset of another model, or an inconsistent row.
    """
    return MODELS.register(entry.config.model_type, entry)


class Presets(Mapping[str, Mapping[str, Any]]):
    """Sizes by name of all models of some tasks, including models that are registered later."""

    def __init__(self, *tasks: Task) -> None:
        self.tasks = tasks

    def entry(self, preset: str) -> ModelEntry:
        """The model that a preset is a size of; KeyError if there is none."""
        for entry in MODELS.values():
            if entry.task in self.tasks and preset in entry.presets:
                return entry
        raise KeyError(preset)

    def __getitem__(self, preset: str) -> Mapping[str, Any]:
        return self.entry(preset).presets[preset]

    def __iter__(self) -> Iterator[str]:
        for entry in MODELS.values():
            if entry.task in self.tasks:
                yield from entry.presets

    def __len__(self) -> int:
        return sum(1 for _ in self)


PRESETS = Presets("causal", "masked")
VISION_PRESETS = Presets("images")

for _entry in _OWN:
    _make_known(_entry)
    if _entry.heads:
        state_classes(_entry.config, _entry.heads)


def task_of(config: PreTrainedConfig) -> Task:
    """What the model of ``config`` is trained on; "causal" for an unknown model."""
    entry = MODELS.get(config.model_type)
    return "causal" if entry is None else entry.task


def is_masked(config: PreTrainedConfig) -> bool:
    """Whether the model of ``config`` is trained on masked tokens instead of the next one."""
    return task_of(config) == "masked"


def is_masked_model(model: PreTrainedModel) -> bool:
    """Whether ``model`` predicts masked tokens: it is what AutoModelForMaskedLM creates."""
    heads: Mapping[type[PreTrainedConfig], Any] = transformers.MODEL_FOR_MASKED_LM_MAPPING
    kind = type(model.config)
    return kind in heads and isinstance(model, heads[kind])


def is_vision(config: PreTrainedConfig) -> bool:
    """Whether the model of ``config`` classifies images."""
    return task_of(config) == "images"


def is_masked_preset(preset: str) -> bool:
    """Whether a preset's model is trained on masked tokens; false for an unknown one."""
    return preset in PRESETS and PRESETS.entry(preset).task == "masked"
