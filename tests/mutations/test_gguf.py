"""GGUF files, whose header is binary: numbers, names and counts changed in place."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from spikeformers.models import load_reference

from .conftest import Survive, change_bytes

gguf = pytest.importorskip("gguf")
TOKENS = ["<s>", "</s>", "a", "b", "ab"]
SHAPES = {
    **{"token_embd": (5, 32), "output": (5, 32), "output_norm": (32,)},
    **{f"blk.0.attn_{role}": (32, 32) for role in ("q", "k", "v", "output")},
    **{"blk.0.attn_norm": (32,), "blk.0.ffn_norm": (32,)},
    **{"blk.0.ffn_gate": (32, 32), "blk.0.ffn_up": (32, 32), "blk.0.ffn_down": (32, 32)},
}


def make(path: Path) -> bytes:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(16)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(32)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(16)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(5)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 1, 1, 1])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    draw = np.random.default_rng(0)
    for name, shape in SHAPES.items():
        writer.add_tensor(f"{name}.weight", draw.normal(0, 0.5, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def change_gguf(content: bytes, draw: random.Random) -> bytes:
    """Mostly a number somewhere in the header, at times anything anywhere."""
    header = content.index(b"ffn_down") + 80
    if draw.random() < 0.2:
        return change_bytes(content, draw)
    if draw.random() < 0.3:
        return change_bytes(content[:header], draw) + content[header:]
    raw = bytearray(content)
    for _ in range(draw.choice((1, 1, 2))):
        at, width = draw.randrange(header), draw.choice((1, 4, 4, 8))
        number = draw.choice((0, 1, 2, 3, 5, 255, 1 << 16, 1 << 31, (1 << 32) - 1, 1 << 62))
        raw[at : at + width] = (number % (1 << 8 * width)).to_bytes(width, "little")
    return bytes(raw)


def test_gguf(survive: Survive, tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    content = make(file)

    def use(mutant: bytes) -> None:
        file.write_bytes(mutant)
        load_reference(str(tmp_path), gguf_file="m.gguf")

    came = survive(content, change_gguf, use, share=0.5)
    assert came["refused"]
    assert came["fine"]
