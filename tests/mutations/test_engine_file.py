"""Engine files: damaged, and made anew with a right checksum around a strange description."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Gemma3TextConfig

from spikeformers.data import make_tokenizer
from spikeformers.engine import load, write
from spikeformers.engine.file import BLANK, is_engine_file
from spikeformers.export import pack
from spikeformers.models import (
    NeurTransformerConfig,
    NeurTransformerForCausalLM,
    build_config,
    build_model,
)

from .conftest import STRANGE, Survive, change_bytes, change_safetensors, change_value

pytest.importorskip("spikeformers.kernels._native")

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
         "max_position_embeddings": 32}  # fmt: skip


def converted() -> NeurTransformerForCausalLM:
    """Of a Gemma 3: windows, norms of heads, capped logits, thresholds per token."""
    source = Gemma3TextConfig(
        **SMALL, vocab_size=259, num_key_value_heads=1, intermediate_size=24, head_dim=8,
        sliding_window=3, layer_types=["sliding_attention"], final_logit_softcapping=5.0,
    )  # fmt: skip
    config = NeurTransformerConfig(
        source=source.to_dict(), threshold="token", code="phase", attention="kept", steps=6,
        spiking_maps=["ffn", "qkv", "out", "head"],
    )  # fmt: skip
    return NeurTransformerForCausalLM(config).eval()


@pytest.fixture(scope="module", params=["wd-spikingformer", "gemma3"])
def content(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    torch.manual_seed(0)
    if request.param == "gemma3":
        model: Any = converted()
    else:
        model = build_model(build_config("wd-spikingformer-tiny", 259, SMALL)).eval()
    path = tmp_path_factory.mktemp("engine") / "x.engine"
    write(pack(model, make_tokenizer("byte"), "int8"), path)
    return path.read_bytes()


def change_inside(raw: bytes, draw: random.Random) -> bytes:
    """One of the three parts of the header as data, the checksum and the alignment put right."""
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    metadata = header["__metadata__"]
    key = draw.choice(("description", "description", "config", "tokenizer"))
    value: Any = change_value(json.loads(metadata[key]), draw)
    if key == "tokenizer" and draw.random() < 0.5:
        parts = json.loads(metadata[key])
        value = parts | {"rules": json.dumps(change_value(json.loads(parts["rules"]), draw))}
    metadata[key] = json.dumps(value)
    if draw.random() < 0.1:
        metadata[key] = change_bytes(metadata[key].encode(), draw).decode("utf-8", "replace")
    if draw.random() < 0.1:
        metadata["weights"] = str(draw.choice(STRANGE)).encode("utf-8", "replace").decode()
    metadata["sha256"] = BLANK
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64)
    digest = hashlib.sha256(text + raw[8 + size :]).hexdigest()
    return (
        len(text).to_bytes(8, "little")
        + text.replace(BLANK.encode(), digest.encode(), 1)
        + raw[8 + size :]
    )


@pytest.mark.parametrize("change", [change_safetensors, change_inside])
def test_engine_file(survive: Survive, content: bytes, tmp_path: Path, change: Any) -> None:
    file = tmp_path / "x.engine"

    def use(mutant: bytes) -> None:
        file.write_bytes(mutant)
        is_engine_file(file)
        engine = load(file, threads=1)
        ids = engine.tokenizer("a b")["input_ids"]
        text = engine.tokenizer.decode([*engine.generate(ids, 2), ids[0]])
        assert isinstance(text, str)

    came = survive(content, change, use)
    assert came["refused"]
