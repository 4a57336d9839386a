"""Resident memory of a separate process that opened a model and ran a text of 32 tokens.

Interpreter and libraries are included, because a user pays for them too; their share before
the model was opened is listed separately, because it is the same for a model of any size.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spikeformers.errors import SpikeformersError
from spikeformers.evaluation.measured import Program, engine_program, text_program
from spikeformers.evaluation.measured.process import Child
from spikeformers.evaluation.peers import write_gpt2_gguf
from spikeformers.models import SpikingformerConfig

PROMPT, NEW_TOKENS = [1, 2, 3, 4], 28
LLAMA_CONTEXT = 64  # tokens, exactly the number used


@dataclass(frozen=True)
class Resident:
    """Resident bytes of a measuring process."""

    total: int
    """Peak, model and text included."""
    libraries: int | None
    """Interpreter and libraries before the model was opened; None if it is not known."""


def resident_of_engine(file: Path, threads: int) -> Resident:
    """An engine that runs an engine file."""
    return resident_of(engine_program(file, threads=threads), threads)


def resident_of_model(folder: Path, threads: int) -> Resident:
    """PyTorch and Transformers that run a model folder."""
    return resident_of(text_program(folder, threads=threads), threads)


def resident_of_llama(config: SpikingformerConfig, threads: int, quantization: str) -> Resident:
    """llama.cpp that runs a dense GPT-2 of a model's shape."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "twin.gguf"
        write_gpt2_gguf(config, file, quantization)
        arguments = {"file": str(file), "context": LLAMA_CONTEXT, "threads": threads}
        opener = "spikeformers.evaluation.peers:GgufModel"
        return resident_of(Program(opener, arguments, ("llama_cpp",)), threads)


def resident_of(program: Program, threads: int) -> Resident:
    """A program that reads four tokens and appends 28. SpikeformersError if it fails."""
    try:
        with Child(program.opener.rpartition(":")[2], program, threads) as child:
            child.ask({"do": "begin", "ids": PROMPT})
            child.ask({"do": "steps", "ids": list(range(NEW_TOKENS))})
            memory: dict[str, Any] = child.ask({"do": "memory"})
    except SpikeformersError as error:
        raise SpikeformersError(f"a measuring process failed: {error}") from error
    total = max(memory["peak_bytes"], memory["peak_bytes_opening"])
    return Resident(total, memory["libraries_bytes"])
