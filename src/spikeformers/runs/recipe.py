"""What to train: preset, data and all keys, from arguments, settings and a YAML recipe.

A recipe is one mapping, in sections or flat; settings take the same keys and override it:

    preset: wd-spikingformer-tiny            tokenizer: bpe:2048
    model: {wta: top_k, winners: 3}          preset: wd-spikingformer-tiny
    train: {steps: 2000, context: 128}       wta: top_k
    data: {source: builtin}                  learning_rate: 2e-3

`distill` has an additional section distill: the teacher and the fields of SpADConfig;
`train_vision` has vision: the fields of VisionConfig. A key of two sections is the training key,
unless its section is given, as in ``model.steps=4``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from spikeformers.errors import ConfigError, DataError, UsageError, nearest
from spikeformers.foreign import foreign, read_text
from spikeformers.values import fits, misfit

TOP = ("preset", "control")
DEFAULT_TOKENIZER = "bpe:4096"
TEACHER: dict[str, str] = {
    "teacher": "",
    "gguf_file": "",
    "teacher_dtype": "auto",
    "cache_teacher": "",
}
"""Keys of the distill section about the teacher and its cache, and their defaults."""
_EXPONENT = re.compile(
    r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+"
)  # a number that YAML 1.1 reads as text


@dataclass
class Recipe:
    """A complete request: which model, which data, how to train. Empty means not given."""

    preset: str = ""
    control: bool = False
    model: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    distill: dict[str, Any] = field(default_factory=dict)
    vision: dict[str, Any] = field(default_factory=dict)

    def merge(self, other: Recipe) -> Recipe:
        """This recipe with the keys of ``other`` on top."""
        return Recipe(
            other.preset or self.preset,
            other.control or self.control,
            self.model | other.model,
            self.data | other.data,
            self.train | other.train,
            self.distill | other.distill,
            self.vision | other.vision,
        )

    def check(self) -> None:
        """Raise ``ConfigError`` or ``DataError`` for what is missing, unknown or out of range."""
        from spikeformers.models import PRESETS, VISION_PRESETS, build_config
        from spikeformers.training import TrainConfig
        from spikeformers.training.distillation import SpADConfig

        if self.preset in VISION_PRESETS:
            raise ConfigError(f"{self.preset} classifies images: use spikeformers train-vision.")
        if not self.preset:
            raise ConfigError(f"no preset was named. Give --preset, one of {', '.join(PRESETS)}.")
        if not self.data.get("source"):
            raise DataError(
                "no text was named. Give --data: builtin, a file, a folder, or a data set's name."
            )
        check_types(self.model, build_config(self.preset, 512))
        build_config(self.preset, 512, self.model).validate_architecture()
        TrainConfig.from_dict(self.train)
        SpADConfig.from_dict(self.spad)

    @property
    def spad(self) -> dict[str, Any]:
        """The distill section without the keys about the teacher."""
        return {key: value for key, value in self.distill.items() if key not in TEACHER}


RecipeSource = Recipe | Mapping[str, Any] | str | Path
"""A recipe, its keys in sections or flat, or a YAML file with them."""
Settings = Mapping[str, Any] | Sequence[str]
"""Keys of a recipe and their values, flat; or ``key=value`` texts as ``--set`` takes them."""


def make_recipe(
    source: RecipeSource | None, named: Recipe, settings: Settings | None, preset: str = ""
) -> Recipe:
    """The recipe of ``source``, with the arguments ``named`` on top, and ``settings`` over both.

    ``preset`` determines the allowed keys of the settings if neither of the two has one, as in a
    resumed run. Raises ``ConfigError`` for an unknown key, ``UsageError`` for a file that
    cannot be read.
    """
    recipe = Recipe()
    if isinstance(source, Recipe):
        recipe = source
    elif isinstance(source, Mapping):
        recipe = from_mapping(source, "recipe")
    elif source is not None:
        recipe = read_recipe(Path(source))
    recipe = recipe.merge(named)
    return recipe.merge(from_settings(settings, recipe.preset or preset))


def from_settings(settings: Settings | None, preset: str = "") -> Recipe:
    """Settings as a recipe. Raises ``ConfigError`` for an unknown key."""
    if isinstance(settings, Mapping):
        return from_mapping({"preset": preset} | dict(settings), "settings")
    return from_assignments(_texts(settings), preset)


def setting_values(settings: Settings | None) -> dict[str, Any]:
    """Settings as plain keys and values, for a run with the keys of a single config."""
    if isinstance(settings, Mapping):
        return dict(settings)
    return parse_assignments(_texts(settings))


def _texts(settings: Sequence[str] | None) -> Sequence[str]:
    return [settings] if isinstance(settings, str) else settings or []


def data_keys() -> dict[str, Any]:
    """Keys of the data section and their defaults, which `load_corpus` declares."""
    from spikeformers.data import load_corpus

    parameters = list(inspect.signature(load_corpus).parameters.values())[1:]
    declared = {parameter.name: parameter.default for parameter in parameters}
    return {"source": "", "tokenizer": DEFAULT_TOKENIZER, **declared}


def known_sections(preset: str = "") -> dict[str, list[str]]:
    """Section -> its keys; training is first, so that it gets a key of two sections."""
    from spikeformers.models import PRESETS, VISION_PRESETS
    from spikeformers.models.presets import known_keys
    from spikeformers.training import TrainConfig
    from spikeformers.training.distillation import SpADConfig

    if preset in VISION_PRESETS:
        return _vision_sections()
    presets = [preset] if preset in PRESETS else list(PRESETS)
    model = set().union(*(known_keys(name) for name in presets))
    return {
        "train": [field.name for field in fields(TrainConfig)],
        "data": list(data_keys()),
        "model": sorted(model),
        "distill": [*TEACHER, *(field.name for field in fields(SpADConfig))],
    }


def _vision_sections() -> dict[str, list[str]]:
    from spikeformers.models.presets import vision_keys
    from spikeformers.training import TrainConfig
    from spikeformers.training.vision.config import UNUSED, VisionConfig

    train = [field.name for field in fields(TrainConfig) if field.name not in UNUSED]
    return {
        "train": train,
        "vision": [field.name for field in fields(VisionConfig)],
        "data": list(image_keys()),
        "model": sorted(vision_keys()),
    }


def image_keys() -> dict[str, Any]:
    """Keys of the data section of images and their defaults."""
    from spikeformers.data.images import load_images

    parameters = list(inspect.signature(load_images).parameters.values())[1:]
    declared = {parameter.name: parameter.default for parameter in parameters}
    return {"source": "", **declared, "fit": False, "broken": "refuse"}


def read_recipe(path: Path) -> Recipe:
    """The recipe in a YAML file; errors for unknown keys name file and key."""
    text = read_text(path, UsageError)
    with foreign(f"{path} is not valid YAML", ConfigError):
        content = yaml.safe_load(text)
    if not isinstance(content, Mapping):
        raise ConfigError(
            f"{path} contains {type(content).__name__}; a recipe consists of keys and values."
        )
    return from_mapping(content, str(path))


def from_mapping(content: Mapping[Any, Any], origin: str) -> Recipe:
    """A recipe from nested or flat keys; ``origin`` is named in errors."""
    recipe = Recipe()
    sections = known_sections(str(content.get("preset", "")))
    for key, value in content.items():
        if key in sections and isinstance(value, Mapping):
            for inner, inner_value in value.items():
                if key == "model" and inner in TOP:
                    _put(recipe, sections, str(inner), inner_value, origin)
                else:
                    _put(recipe, sections, f"{key}.{inner}", inner_value, origin)
        elif key == "data":  # flat: the source itself
            _put(recipe, sections, "data.source", value, origin)
        else:
            _put(recipe, sections, str(key), value, origin)
    return recipe


def from_assignments(assignments: Sequence[str], preset: str = "") -> Recipe:
    """A recipe from ``key=value`` texts, whose values are YAML scalars."""
    recipe, sections = Recipe(), known_sections(preset)
    for text in assignments:
        ((key, value),) = parse_assignments([text]).items()
        _put(recipe, sections, key, value, _named(text))
    return recipe


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """``key=value`` texts, whose values are YAML scalars."""
    values = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"{_named(text)}: it must be key=value, as in --set steps=500.")
        with foreign(f"{_named(text)}: the value is not valid YAML", ConfigError):
            values[key.strip()] = _number(yaml.safe_load(value))
    return values


def _named(assignment: str) -> str:
    return f"--set {' '.join(assignment.split())}"


def _put(
    recipe: Recipe, sections: Mapping[str, Sequence[str]], key: str, value: Any, origin: str
) -> None:
    if key in TOP:
        expected = str if key == "preset" else bool
        if not isinstance(value, expected):
            raise ConfigError(f"{origin}: {misfit(key, value, expected)}")
        setattr(recipe, key, value)
        return
    section, dot, inner = key.partition(".")
    if dot and section in sections:
        if inner not in sections[section]:
            raise ConfigError(_unknown(origin, inner, sections, section))
    else:
        inner = key
        section = next((name for name, keys in sections.items() if key in keys), "")
        if not section:
            raise ConfigError(_unknown(origin, key, sections))
    getattr(recipe, section)[inner] = _number(value)


def _unknown(
    origin: str, key: str, sections: Mapping[str, Sequence[str]], section: str = ""
) -> str:
    for other, keys in sections.items():
        if section and key in keys:
            return f"{origin}: {key!r} belongs to the section {other}, not to {section}."
    keys = sections[section] if section else [*TOP, *(k for ks in sections.values() for k in ks)]
    hint = nearest(key, keys) or nearest(key, [k for ks in sections.values() for k in ks])
    where = f" in the section {section}" if section else ""
    listed = "; ".join(f"{name}: {', '.join(keys)}" for name, keys in sections.items())
    return f"{origin}: unknown key {key!r}{where}.{hint or f' Known keys are {listed}.'}"


def check_types(values: Mapping[str, Any], config: Any) -> None:
    """Raise ``ConfigError`` for a model value of another type than the preset's."""
    for key, value in values.items():
        default = getattr(config, key, None)
        if default is None or value is None:
            continue
        if not fits(value, type(default)):
            problem = misfit(key, value, type(default)).rstrip(".")
            raise ConfigError(f"{problem}, as in {default!r}.")


def _number(value: Any) -> Any:
    if isinstance(value, list):
        return [_number(item) for item in value]
    if isinstance(value, str) and _EXPONENT.fullmatch(value):
        return float(value)
    return value
