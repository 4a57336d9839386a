"""Open a model folder: config.json, model.safetensors, tokenizer; explain clearly what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from spikeformers.data.tokenizers import check_vocabulary, load_tokenizer
from spikeformers.errors import CheckpointError, nearest
from spikeformers.foreign import foreign, read_json
from spikeformers.models._checks import check_labels, config_errors
from spikeformers.models._weights import check_finite, check_numbers, check_shapes, read_header
from spikeformers.models.registry import MODELS, is_vision
from spikeformers.packaged import KNOWN, folder_or_path
from spikeformers.values import fits, shortened

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAFELY: dict[str, Any] = {"trust_remote_code": False}
"""Of each ``from_pretrained`` here: code in a folder is never run, and no prompt asks about it."""
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".pickle")


def load_model(folder: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the model, in eval mode, and its tokenizer; ``folder`` may name a packaged model.

    Raises CheckpointError for a missing folder, a pickle, a truncated file, weights that belong to
    another model or are not finite, and for a model of images (``load_vision_model``).
    """
    path = folder_or_path(folder)
    model = load_weights(path)
    if is_vision(model.config):
        raise CheckpointError(f"{path} holds a model of images, and this needs one of text.")
    tokenizer = load_tokenizer(path)
    check_vocabulary(tokenizer, rows_of(model), path)
    return model, tokenizer


def rows_of(model: PreTrainedModel) -> int:
    """Tokens that a model of text has an embedding for."""
    rows: int = model.get_input_embeddings().weight.shape[0]
    return rows


def load_vision_model(folder: str | Path) -> PreTrainedModel:
    """Return an image classifier, in eval mode. Raises CheckpointError as ``load_model`` does."""
    model = load_weights(Path(folder))
    if not is_vision(model.config):
        raise CheckpointError(
            f"{folder} holds a {model.config.model_type}, and this needs a model of images."
        )
    return model


def load_weights(path: Path) -> PreTrainedModel:
    """The model of a folder or of a packaged model's name, in eval mode, of text or images."""
    path = folder_or_path(path)
    check_folder(path)
    config = read_config(path)
    architecture = architecture_of(config)
    auto: Any = AutoModelForCausalLM
    if "MaskedLM" in architecture:
        auto = AutoModelForMaskedLM
    elif "SequenceClassification" in architecture:
        auto = AutoModelForSequenceClassification
    elif "ImageClassification" in architecture:
        auto = AutoModelForImageClassification
    check_shapes(path, auto, config)
    with foreign(f"{path}: the model cannot be built"):
        model, info = auto.from_pretrained(
            path,
            output_loading_info=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            **SAFELY,
        )
    wrong = {
        "missing": sorted(info["missing_keys"]),
        "unexpected": sorted(info["unexpected_keys"]),
        "of another shape": sorted(str(key) for key in info["mismatched_keys"]),
    }
    if any(wrong.values()):
        problems = "; ".join(f"{len(v)} {k} (first: {v[0]})" for k, v in wrong.items() if v)
        raise CheckpointError(
            f"{path}: model.safetensors does not belong to its config.json "
            f"({config.model_type}): {problems}. Put the matching file back."
        )
    check_finite(model, path)
    loaded: PreTrainedModel = model.eval()
    return loaded


def read_config(path: Path) -> Any:
    """The config of a model folder; CheckpointError if anything is wrong with it."""
    file = path / "config.json"
    values = read_json(file)
    if not isinstance(values.get("model_type"), str) or not values["model_type"]:
        raise CheckpointError(f"{file} names no model_type, so it is not a model's config.")
    kind = values["model_type"]
    if kind not in MODELS and kind not in CONFIG_MAPPING:
        raise CheckpointError(
            f"{file} names the model_type {kind!r}, which neither this package nor Transformers "
            f"knows.{nearest(kind, CONFIG_MAPPING)} Code in a model folder is never run."
        )
    MODELS.get(kind)  # a model of another package is registered when it is asked for
    check_numbers(file, values, read_header(path))
    with config_errors(f"{file} describes no model that can be built", CheckpointError):
        check_labels(values)
        return AutoConfig.from_pretrained(path, **SAFELY)


def architecture_of(config: Any) -> str:
    """The first class that a config names, or ""; CheckpointError for malformed names."""
    named = getattr(config, "architectures", None) or [""]
    if not fits(named, list[str]):
        raise CheckpointError(
            f"architectures is {shortened(named)} in the config; it must be a list of class names."
        )
    return str(named[0])


def check_folder(path: Path) -> None:
    """Raise CheckpointError unless ``path`` looks like a complete, safe model folder."""
    if path.suffix in PICKLES and path.is_file():
        raise CheckpointError(
            f"{path} is a pickle, which can run code when it is opened; it is not loaded. "
            "Save the model with save_pretrained() (safetensors) where you trust it."
        )
    if not path.is_dir():
        what = "is a file, not a model folder" if path.exists() else "does not exist"
        raise CheckpointError(
            f"{path} {what}; a model is a folder with config.json and model.safetensors."
            f"{nearest(str(path), KNOWN)}"
        )
    config = path / "config.json"
    if not config.is_file():
        hint = ""
        if (path / "run.json").is_file():
            hint = " The run in it has not finished: continue it with --resume."
        raise CheckpointError(f"{path} has no config.json, so it is not a model folder.{hint}")
    weights = sorted(path.glob("*.safetensors"))
    if not weights:
        pickles = [p.name for p in path.iterdir() if p.suffix in PICKLES]
        if pickles:
            raise CheckpointError(
                f"{path} holds {', '.join(pickles)} but no safetensors; pickles are never loaded. "
                "Convert it with save_pretrained() where you trust it."
            )
        raise CheckpointError(f"{path} has no model.safetensors.")
    for file in weights:
        advice = "Copy it again, or take the run's last checkpoint with --resume."
        damaged = f"{file} is truncated or not a safetensors file"
        with foreign(damaged, advice=advice), safe_open(file, framework="pt") as handle:
            handle.keys()
