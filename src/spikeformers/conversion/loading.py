"""The dense model to convert: a folder, a GGUF file in a folder, or a name on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from spikeformers.data.hub import check_online
from spikeformers.errors import CheckpointError, ConfigError, OfflineError
from spikeformers.models import load_model
from spikeformers.models._sources import source_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_source(name: str, gguf_file: str = "") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model in float32, in eval mode, and its tokenizer, which ends documents with eos.

    A GGUF file's numbers are read as they are and computed with in float32. Raises ConfigError for
    an architecture that has no conversion, a quantised model, or a model that spikes already;
    CheckpointError for a folder that cannot be read; OfflineError where the hub does not answer.
    """
    import torch

    path = Path(name).expanduser()
    if not path.exists() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise CheckpointError(f"{name} does not exist; give a model folder or a name of the hub.")
    if not path.exists():
        check_online("models", name)
    where = str(path) if path.exists() else name
    options: dict[str, Any] = {"gguf_file": gguf_file} if gguf_file else {}
    if gguf_file and path.is_dir() and not (path / gguf_file).is_file():
        raise CheckpointError(f"{path} holds no {gguf_file}.")
    if path.exists() and not gguf_file:
        _refuse(_described(where, options, path.exists()), name)
        model, tokenizer = load_model(path)
        model = model.float()
    else:
        described = _described(where, options, path.exists())
        _refuse(described, name)
        try:
            model = AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32, **options)
            tokenizer = AutoTokenizer.from_pretrained(where, **options)
        except (OSError, ValueError, ImportError) as error:
            raise _unreadable(name, error, path.exists()) from error
    if tokenizer.eos_token_id is None:
        raise ConfigError(f"{name}: its tokenizer has no eos token to put between documents.")
    return model.eval(), tokenizer


def _described(where: str, options: dict[str, Any], local: bool) -> Any:
    try:
        return AutoConfig.from_pretrained(where, **options)
    except Exception as error:  # Transformers and huggingface_hub raise many types here
        raise _unreadable(where, error, local) from error


def _refuse(config: Any, name: str) -> None:
    if config.model_type == "neurtransformer" or config.model_type.endswith("spikingformer"):
        raise ConfigError(f"{name} is a spiking model ({config.model_type}) already.")
    source_of(config.model_type)
    if getattr(config, "quantization_config", None) is not None:
        raise ConfigError(
            f"{name} is quantised, and a conversion needs the real weights. Convert the model "
            "that it was quantised from."
        )


def _unreadable(name: str, error: Exception, local: bool) -> Exception:
    said = str(error).splitlines()[0] if str(error) else type(error).__name__
    if local or isinstance(error, ImportError):
        return CheckpointError(f"{name}: the model cannot be read: {said}")
    return OfflineError(
        f"{name!r} is no folder here, and the Hugging Face hub does not give it ({said}). Check "
        "the name or the network, or give a folder."
    )
