"""Other programs to compare a model's speed with: each runs a dense GPT-2 of its shape.

Their weights are random: speed does not depend on them. A peer is used if it is installed.
llama.cpp runs with and without flash attention, because which of the two is faster depends on the
machine and the length of the text: compare with the faster one.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from spikeformers.evaluation.peer_ctranslate2 import CTranslate2
from spikeformers.evaluation.systems import System
from spikeformers.models import SpikingformerConfig


@dataclass(frozen=True)
class Peer:
    """A program to compare with, and its properties before it is opened."""

    open: Callable[[SpikingformerConfig, Path, int], Any]
    """``(config, folder for its files, threads)`` -> a System that also has ``close()``."""
    modules: tuple[str, ...]
    """Modules that must be installed."""
    build: Callable[[], str]
    """How this installation was built, as reported by the program."""
    block: int = 1
    """Rows of its weights come in blocks of this many values."""


def usable(peer: str, config: SpikingformerConfig) -> bool:
    """Whether a peer is installed and has weights of this shape."""
    block = PEERS[peer].block
    fits = config.hidden_size % block == 0 and (config.intermediate_size or 0) % block == 0
    return fits and all(importlib.util.find_spec(module) for module in PEERS[peer].modules)


@contextmanager
def running(
    config: SpikingformerConfig, threads: int, names: Iterable[str] | None = None
) -> Iterator[dict[str, System]]:
    """The usable peers by name, of all or of ``names``; closed at the end of the block."""
    with ExitStack() as stack:
        opened: dict[str, System] = {}
        for peer in PEERS if names is None else names:
            if usable(peer, config):
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                system = PEERS[peer].open(config, folder, threads)
                stack.callback(system.close)
                opened[peer] = system
        yield opened


def builds() -> dict[str, str]:
    """Version and build flags of the peers that are installed, by package."""
    installed = [p for p in PEERS.values() if all(map(importlib.util.find_spec, p.modules))]
    return {peer.modules[0]: peer.build() for peer in installed}


class GgufModel:
    """llama.cpp through llama-cpp-python, for one GGUF file, mapped into memory or read into it."""

    def __init__(
        self,
        file: str | Path,
        context: int,
        threads: int,
        flash_attention: bool = False,
        mapped: bool = True,
    ) -> None:
        from llama_cpp import Llama

        self._llama = Llama(
            str(file),
            n_ctx=context,
            n_batch=512,
            n_threads=threads,
            n_threads_batch=threads,
            flash_attn=flash_attention,
            use_mmap=mapped,
            verbose=False,
        )

    def close(self) -> None:
        """Free the model now; at the interpreter's exit its library may be unloaded before it."""
        self._llama.close()

    def begin(self, ids: Sequence[int]) -> None:
        self._llama.reset()
        self._llama.eval(list(ids))

    def step(self, token: int) -> None:
        self._llama.eval([token])


def _open_llama(
    config: SpikingformerConfig,
    folder: Path,
    threads: int,
    quantization: str,
    flash_attention: bool,
) -> GgufModel:
    """A dense GPT-2 of this shape in llama.cpp, written to ``folder`` first."""
    file = folder / "twin.gguf"
    write_gpt2_gguf(config, file, quantization)
    return GgufModel(file, config.max_position_embeddings, threads, flash_attention)


def _llama_build() -> str:
    import llama_cpp

    info: bytes = llama_cpp.llama_print_system_info()
    return f"llama-cpp-python {llama_cpp.__version__}; {info.decode('utf-8', 'replace').strip()}"


def _ctranslate2_build() -> str:
    import ctranslate2

    types = ", ".join(sorted(ctranslate2.get_supported_compute_types("cpu")))
    return f"CTranslate2 {ctranslate2.__version__}; compute types on this processor: {types}"


def _llama(quantization: str, *, flash_attention: bool = False) -> Peer:
    opened = partial(_open_llama, quantization=quantization, flash_attention=flash_attention)
    return Peer(opened, ("llama_cpp", "gguf"), _llama_build, block=32)


PEERS: dict[str, Peer] = {
    "llama.cpp-q8_0": _llama("Q8_0"),
    "llama.cpp-q8_0, flash attention": _llama("Q8_0", flash_attention=True),
    "llama.cpp-q4_0": _llama("Q4_0"),
    "llama.cpp-q4_0, flash attention": _llama("Q4_0", flash_attention=True),
    "ctranslate2-int8": Peer(CTranslate2, ("ctranslate2",), _ctranslate2_build),
}
"""The peers by name."""


def write_gpt2_gguf(
    config: SpikingformerConfig,
    path: Path,
    quantization: str = "Q8_0",
    vocabulary: Sequence[str] | None = None,
) -> None:
    """A GPT-2 with random weights and a vocabulary, of numbered tokens unless given.

    ``quantization`` applies to all matrices except the head, which is Q8_0: llama.cpp's own Q4_0
    files have a finer head too.
    """
    import gguf

    draw = np.random.default_rng(0)
    width, hidden, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    assert hidden is not None
    out = gguf.GGUFWriter(str(path), "gpt2")
    out.add_context_length(config.max_position_embeddings)
    out.add_embedding_length(width)
    out.add_feed_forward_length(hidden)
    out.add_block_count(layers)
    out.add_head_count(config.num_attention_heads)
    out.add_layer_norm_eps(1e-5)
    out.add_tokenizer_model("gpt2")
    tokens = vocabulary or [f"t{number}" for number in range(config.vocab_size)]
    out.add_token_list(tokens)
    out.add_token_types([1] * len(tokens))
    out.add_token_merges(["t 0"])
    out.add_bos_token_id(0)
    out.add_eos_token_id(0)

    def unquantised(name: str, *shape: int) -> None:
        out.add_tensor(name, draw.standard_normal(shape, np.float32) * np.float32(0.02))

    def packed(name: str, rows: int, columns: int, quantization: str = quantization) -> None:
        real = draw.standard_normal((rows, columns), np.float32) * np.float32(0.02)
        kind = gguf.GGMLQuantizationType[quantization]
        out.add_tensor(name, gguf.quantize(real, kind), raw_dtype=kind)

    packed("token_embd.weight", config.vocab_size, width, "Q8_0")
    unquantised("position_embd.weight", config.max_position_embeddings, width)
    for layer in range(layers):
        prefix = f"blk.{layer}"
        for name, rows, columns in (
            ("attn_qkv", 3 * width, width),
            ("attn_output", width, width),
            ("ffn_up", hidden, width),
            ("ffn_down", width, hidden),
        ):
            packed(f"{prefix}.{name}.weight", rows, columns)
            unquantised(f"{prefix}.{name}.bias", rows)
        for name in ("attn_norm", "ffn_norm"):
            unquantised(f"{prefix}.{name}.weight", width)
            unquantised(f"{prefix}.{name}.bias", width)
    unquantised("output_norm.weight", width)
    unquantised("output_norm.bias", width)
    packed("output.weight", config.vocab_size, width, "Q8_0")
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
