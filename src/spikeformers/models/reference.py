"""Load any causal language model: the teacher of a distillation, the reference of a comparison.

A folder of this project or of Transformers, a name on the Hugging Face hub, a short name of
``packaged.known``, or a GGUF file, whose weights are dequantised, so that the model trains and is
saved like any other. Only safetensors and GGUF are read, never a pickle.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from spikeformers.data.hub import check_online
from spikeformers.data.tokenizers import check_vocabulary, load_tokenizer
from spikeformers.errors import CheckpointError, ConfigError, OfflineError, SpikeformersError
from spikeformers.foreign import foreign
from spikeformers.models._checks import config_errors
from spikeformers.models._weights import check_finite, check_shapes, read_gguf_config
from spikeformers.models.loading import (
    SAFELY,
    architecture_of,
    check_folder,
    read_config,
    rows_of,
)
from spikeformers.models.registry import is_masked
from spikeformers.packaged import locate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

DTYPES = {"auto": "auto", "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load_reference(
    name: str, *, gguf_file: str = "", dtype: str = "auto", attentions: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """The model, in eval mode and without gradients, and its tokenizer.

    ``dtype`` "auto" keeps the dtype of the weights; those of a GGUF file become float32.
    ``attentions`` selects an attention implementation that can return its maps. Raises
    CheckpointError for weights that cannot be read or are not finite, ConfigError for a model that
    is not causal, OfflineError for a hub that does not answer.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype is {dtype!r}; it must be one of {', '.join(DTYPES)}.")
    place, gguf_file, _ = locate(name, gguf_file)
    source, local = _find(place, gguf_file)
    gguf: dict[str, Any] = {"gguf_file": gguf_file} if gguf_file else {}
    failure = f"{name} cannot be loaded as a causal model"
    error: type[SpikeformersError] = CheckpointError
    if not local:
        failure = f"{name!r} is not a folder here and did not come from the Hugging Face hub"
        error = OfflineError
    with config_errors(failure, error):
        config = _config(source, gguf_file, local)
    _refuse_masked(name, config)
    options = gguf or {"use_safetensors": True}
    if attentions:
        options = options | {"attn_implementation": "eager"}
    chosen = torch.float32 if gguf_file and dtype == "auto" else DTYPES[dtype]
    if local and not gguf_file:
        check_shapes(Path(source), AutoModelForCausalLM, config)
    with foreign(failure, error):
        model, info = AutoModelForCausalLM.from_pretrained(
            source, dtype=chosen, output_loading_info=True, **SAFELY, **options
        )
    tokenizer = load_tokenizer(source, error, padding_side="left", **gguf)
    if info["missing_keys"]:
        raise CheckpointError(
            f"{name}: {len(info['missing_keys'])} weights are missing (first: "
            f"{min(info['missing_keys'])}), so the file does not belong to its config."
        )
    if not getattr(tokenizer, "is_fast", False):
        raise ConfigError(f"{name}: its tokenizer has no fast version, which spikeformers needs.")
    check_vocabulary(tokenizer, rows_of(model), name)
    if tokenizer.eos_token_id is None:
        raise ConfigError(f"{name}: its tokenizer names no eos token to put between documents.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if gguf_file:  # its weights are dequantised, so it is saved as an ordinary model
        quantizer = getattr(model, "hf_quantizer", None)
        if quantizer is not None:
            quantizer.remove_quantization_config(model)
    check_finite(model, name)
    model = model.eval().requires_grad_(False)
    refuse_acausal(name, model)
    return model, tokenizer


def _config(source: str, gguf_file: str, local: bool) -> Any:
    """The config; for a local folder, its numbers are checked against the weights beside it."""
    if not local:
        gguf = {"gguf_file": gguf_file} if gguf_file else {}
        return AutoConfig.from_pretrained(source, **SAFELY, **gguf)
    if not gguf_file:
        return read_config(Path(source))
    return read_gguf_config(Path(source) / gguf_file)


def _find(name: str, gguf_file: str) -> tuple[str, bool]:
    """Where to load from, and whether that is a local folder."""
    folder = Path(name).expanduser()
    if gguf_file:
        if importlib.util.find_spec("gguf") is None:
            raise ConfigError("GGUF files need the gguf package: pip install 'spikeformers[gguf]'.")
        if folder.is_dir() and not (folder / gguf_file).is_file():
            files = sorted(path.name for path in folder.glob("*.gguf"))
            raise CheckpointError(
                f"{folder} has no {gguf_file}; it holds {', '.join(files) or 'no GGUF file'}."
            )
    elif folder.is_dir():
        if not (folder / "config.json").is_file() and any(folder.glob("*.gguf")):
            file = shlex.quote(min(path.name for path in folder.glob("*.gguf")))
            raise CheckpointError(f"{folder} holds GGUF; name the file: --gguf-file {file}.")
        check_folder(folder)
    if folder.is_dir():
        return str(folder), True
    if folder.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1 or not name:
        check_folder(folder)
    check_online("models", name)
    if os.environ.get("HF_HUB_OFFLINE"):
        from huggingface_hub import try_to_load_from_cache

        if not isinstance(try_to_load_from_cache(name, gguf_file or "config.json"), str):
            raise OfflineError(
                f"{name!r} is not a folder here, and the hub is switched off (HF_HUB_OFFLINE). "
                "Give a model folder, or unset it."
            )
    return name, False


def _refuse_masked(name: str, config: Any) -> None:
    architecture = architecture_of(config)
    if is_masked(config) or "MaskedLM" in architecture:
        raise ConfigError(
            f"{name} ({architecture or config.model_type}) predicts masked tokens. A causal "
            "language model is needed, such as OPT, GPT-2, LLaMA or a WD-Spikingformer."
        )


@torch.no_grad()
def refuse_acausal(name: str, model: Any) -> None:
    """Raise ConfigError if a later token changes an earlier row of logits."""
    first = torch.arange(4, device=model.device)[None] % model.config.vocab_size
    second = first.clone()
    second[0, -1] = (first[0, -1] + 1) % model.config.vocab_size
    before, after = (
        model(input_ids=ids, use_cache=False).logits[0, :-1] for ids in (first, second)
    )
    if not torch.allclose(before, after, atol=1e-3, rtol=1e-3):
        raise ConfigError(
            f"{name} ({type(model).__name__}) lets a token see later ones; a causal language model "
            "is needed."
        )
