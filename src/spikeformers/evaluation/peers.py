"""Other programs beside which a model is timed: a dense GPT-2 of its shape in each.

Their weights are random: speed does not depend on them. A peer is used where it is installed and
left out where it is not.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from spikeformers.evaluation.peer_ctranslate2 import CTranslate2
from spikeformers.evaluation.systems import System
from spikeformers.models import SpikingformerConfig

PEERS = {"llama.cpp-q8_0": ("llama_cpp", "gguf"), "ctranslate2-int8": ("ctranslate2",)}
"""Name, and the modules that it needs."""


def usable(peer: str, config: SpikingformerConfig) -> bool:
    """Whether a peer is installed and has weights of this shape: Q8_0 comes in blocks of 32."""
    blocks = config.hidden_size % 32 == 0 and (config.intermediate_size or 0) % 32 == 0
    fits = blocks or peer != "llama.cpp-q8_0"
    return fits and all(importlib.util.find_spec(module) for module in PEERS[peer])


@contextmanager
def running(config: SpikingformerConfig, threads: int) -> Iterator[dict[str, System]]:
    """The peers that can be used, by name, until the end of the block."""
    with ExitStack() as stack:
        found: dict[str, System] = {}
        for peer in PEERS:
            if usable(peer, config):
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                kind = LlamaCpp if peer == "llama.cpp-q8_0" else CTranslate2
                made = kind(config, folder, threads)
                stack.callback(made.close)
                found[peer] = made
        yield found


class LlamaCpp:
    """llama.cpp through llama-cpp-python, weights in Q8_0."""

    def __init__(self, config: SpikingformerConfig, folder: Path, threads: int) -> None:
        from llama_cpp import Llama

        path = folder / "twin.gguf"
        write_gpt2_gguf(config, path)
        self._llama = Llama(
            str(path),
            n_ctx=config.max_position_embeddings,
            n_batch=512,
            n_threads=threads,
            n_threads_batch=threads,
            verbose=False,
        )

    def close(self) -> None:
        """Free the model now; at the interpreter's end its library may be gone before it."""
        self._llama.close()

    def begin(self, ids: Sequence[int]) -> None:
        self._llama.reset()
        self._llama.eval(list(ids))

    def step(self, token: int) -> None:
        self._llama.eval([token])


def write_gpt2_gguf(config: SpikingformerConfig, path: Path) -> None:
    """A GPT-2 with random Q8_0 weights and a vocabulary of numbered tokens."""
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
    tokens = [f"t{number}" for number in range(config.vocab_size)]
    out.add_token_list(tokens)
    out.add_token_types([1] * len(tokens))
    out.add_token_merges(["t 0"])
    out.add_bos_token_id(0)
    out.add_eos_token_id(0)

    def whole(name: str, *shape: int) -> None:
        out.add_tensor(name, draw.standard_normal(shape, np.float32) * np.float32(0.02))

    def packed(name: str, rows: int, columns: int) -> None:
        real = draw.standard_normal((rows, columns), np.float32) * np.float32(0.02)
        kind = gguf.GGMLQuantizationType.Q8_0
        out.add_tensor(name, gguf.quantize(real, kind), raw_dtype=kind)

    packed("token_embd.weight", config.vocab_size, width)
    whole("position_embd.weight", config.max_position_embeddings, width)
    for layer in range(layers):
        on = f"blk.{layer}"
        for name, rows, columns in (
            ("attn_qkv", 3 * width, width),
            ("attn_output", width, width),
            ("ffn_up", hidden, width),
            ("ffn_down", width, hidden),
        ):
            packed(f"{on}.{name}.weight", rows, columns)
            whole(f"{on}.{name}.bias", rows)
        for name in ("attn_norm", "ffn_norm"):
            whole(f"{on}.{name}.weight", width)
            whole(f"{on}.{name}.bias", width)
    whole("output_norm.weight", width)
    whole("output_norm.bias", width)
    packed("output.weight", config.vocab_size, width)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
