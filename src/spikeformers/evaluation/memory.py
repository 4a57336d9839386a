"""Resident memory of a process of its own that opened a model and wrote 32 tokens.

Interpreter and libraries are included, because a user pays for them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from spikeformers.errors import SpikeformersError

_PEAK = """
import json
from spikeformers.meters import peak_bytes
print(json.dumps(peak_bytes()))
"""
_ENGINE = """
from spikeformers.engine import load
engine = load({file!r}, threads={threads})
list(engine.generate([1, 2, 3, 4], 32))
"""
_TORCH = """
import torch, spikeformers
from transformers import AutoModelForCausalLM
torch.set_num_threads({threads})
model = AutoModelForCausalLM.from_pretrained({folder!r}).eval()
model.generate(torch.tensor([[1, 2, 3, 4]]), max_new_tokens=32, do_sample=False)
"""


def resident_of_engine(file: Path, threads: int) -> int:
    """Peak bytes of an engine that runs an engine file."""
    return _resident(_ENGINE.format(file=str(file), threads=threads))


def resident_of_model(folder: Path, threads: int) -> int:
    """Peak bytes of PyTorch and Transformers that run a model folder."""
    return _resident(_TORCH.format(folder=str(folder), threads=threads))


def _resident(code: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", code + _PEAK], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SpikeformersError(f"a measuring process failed: {done.stderr.strip()[-300:]}")
    peak: int = json.loads(done.stdout.splitlines()[-1])
    return peak
