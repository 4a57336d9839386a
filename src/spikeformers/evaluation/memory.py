"""Resident memory of a process of its own that opened a model and wrote 32 tokens.

Interpreter and libraries are included, because a user pays for them; what they took before the
model was opened is said apart, because they are the same for a model of any size.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from spikeformers.errors import SpikeformersError
from spikeformers.evaluation.peers import write_gpt2_gguf
from spikeformers.models import SpikingformerConfig

_BEFORE = """
import json
from spikeformers.meters import peak_bytes, resident_bytes
libraries = resident_bytes() or peak_bytes()
"""
_AFTER = """
print(json.dumps([peak_bytes(), libraries]))
"""
_ENGINE = (
    """
from spikeformers.engine import load
from spikeformers.kernels import native
native()
""",
    """
engine = load({file!r}, threads={threads})
list(engine.generate([1, 2, 3, 4], 32))
""",
)
_TORCH = (
    """
import torch, spikeformers
from transformers import AutoModelForCausalLM
import transformers.generation
""",
    """
torch.set_num_threads({threads})
model = AutoModelForCausalLM.from_pretrained({file!r}).eval()
model.generate(torch.tensor([[1, 2, 3, 4]]), max_new_tokens=32, do_sample=False)
""",
)
_LLAMA = (
    """
from llama_cpp import Llama
""",
    """
model = Llama({file!r}, n_ctx={context}, n_threads={threads}, verbose=False)
model.eval([1, 2, 3, 4])
for token in range(32):
    model.eval([token])
""",
)


@dataclass(frozen=True)
class Resident:
    """Resident bytes of a measuring process."""

    total: int
    """The most it had, model and text included."""
    libraries: int
    """What interpreter and libraries had taken before the model was opened."""


def resident_of_engine(file: Path, threads: int) -> Resident:
    """An engine that runs an engine file."""
    return _resident(_ENGINE, file=str(file), threads=threads)


def resident_of_model(folder: Path, threads: int) -> Resident:
    """PyTorch and Transformers that run a model folder."""
    return _resident(_TORCH, file=str(folder), threads=threads)


def resident_of_llama(config: SpikingformerConfig, threads: int, quantization: str) -> Resident:
    """llama.cpp that runs a dense GPT-2 of a model's shape; a context of 64 tokens, as is used."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "twin.gguf"
        write_gpt2_gguf(config, file, quantization)
        return _resident(_LLAMA, file=str(file), threads=threads, context=64)


def _resident(parts: tuple[str, str], **values: object) -> Resident:
    libraries, work = parts
    code = libraries + _BEFORE + work.format(**values) + _AFTER
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SpikeformersError(f"a measuring process failed: {done.stderr.strip()[-300:]}")
    return Resident(*json.loads(done.stdout.splitlines()[-1]))
