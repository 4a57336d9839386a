"""What is needed to repeat a result: weights, tokenizer, versions, commit."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import spikeformers
from spikeformers.data.tokenizers import tokenizer_digest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "numpy", "lm_eval")
VOLATILE = ("_name_or_path", "transformers_version", "architectures", "use_cache", "dtype")


def weights_digest(model: PreTrainedModel) -> str:
    """sha256 (hex) over names, shapes, types and bytes of the model's state dict."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\0".encode())
        flat = tensor.detach().contiguous().reshape(-1).cpu()
        digest.update(memoryview(flat.view(torch.uint8).numpy()))
    return digest.hexdigest()


def model_record(
    name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    """Name, shape and digests of a model and its tokenizer, for JSON."""
    config = json.loads(model.config.to_json_string(use_diff=False))
    return {
        "name": name,
        "class": type(model).__name__,
        "model_type": model.config.model_type,
        "parameters": model.num_parameters(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "weights_sha256": weights_digest(model),
        "tokenizer_sha256": tokenizer_digest(tokenizer),  # type: ignore[arg-type]
        "config": {key: value for key, value in config.items() if key not in VOLATILE},
    }


def versions() -> dict[str, str]:
    """Versions of Python, of this package and of the packages that it uses, if installed."""
    installed = {"python": platform.python_version(), "spikeformers": spikeformers.__version__}
    for name in PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def software_record() -> dict[str, Any]:
    """Versions of the software, and the commit if the package runs from a checkout."""
    return {"versions": versions(), "commit": _commit()}


def _commit() -> str | None:
    """The commit of this source tree, followed by "+changes" if it is not clean."""
    root = Path(spikeformers.__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        head = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{head}+changes" if changed else head


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
