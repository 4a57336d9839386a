"""config.json, generation_config.json, model.safetensors and preprocessor_config.json."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from spikeformers.data import make_tokenizer
from spikeformers.data.images import Prep
from spikeformers.models import (
    build_config,
    build_model,
    build_vision_config,
    load_model,
    load_reference,
    load_vision_model,
)
from spikeformers.models.neurtransformer import NeurTransformerForCausalLM, neurtransformer_config

from .conftest import Survive, change_json, change_safetensors

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
         "max_position_embeddings": 32}  # fmt: skip
VOCABULARY = 259


def spiking(preset: str, **more: Any) -> Any:
    return build_model(build_config(preset, VOCABULARY, SMALL | more))


def dense() -> Any:
    shape = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32}
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCABULARY, bos_token_id=256, eos_token_id=256, **shape)
    )


def llama() -> Any:
    shape = SMALL | {"intermediate_size": 24, "num_key_value_heads": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **shape))


def converted() -> Any:
    return NeurTransformerForCausalLM(
        neurtransformer_config(source=dense().config.to_dict(), steps=4)
    )


def vision() -> Any:
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}
    return build_model(build_vision_config("a2os2a-digits", shape))


KINDS: dict[str, tuple[Callable[[], Any], Callable[[Path], Any]]] = {
    "wd": (lambda: spiking("wd-spikingformer-tiny"), load_model),
    "we": (lambda: spiking("we-spikingformer-tiny", position="learned"), load_model),
    "bispikclm": (lambda: spiking("bispikclm-tiny"), load_model),
    "converted": (converted, load_model),
    "vision": (vision, load_vision_model),
    "gpt2": (dense, lambda path: load_reference(str(path))),
    "llama": (llama, lambda path: load_reference(str(path))),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    saved = {}
    for kind, (make, _) in KINDS.items():
        torch.manual_seed(0)
        saved[kind] = tmp_path_factory.mktemp(kind)
        make().save_pretrained(saved[kind])
        if kind == "vision":
            Prep(8, 1).save_pretrained(saved[kind])
        else:
            make_tokenizer("byte", masked=kind == "we").save_pretrained(saved[kind])
    return saved


@contextmanager
def restored(file: Path) -> Iterator[bytes]:
    content = file.read_bytes()
    yield content
    file.write_bytes(content)


@pytest.mark.parametrize("kind", list(KINDS))
def test_config(survive: Survive, folders: dict[str, Path], kind: str) -> None:
    folder, load = folders[kind], KINDS[kind][1]
    file = folder / "config.json"

    def use(mutant: bytes) -> None:
        file.write_bytes(mutant)
        load(folder)

    with restored(file) as content:
        came = survive(content, change_json, use, share=1 / 3)
    assert came["refused"]


def test_generation_config(survive: Survive, folders: dict[str, Path]) -> None:
    folder = folders["wd"]
    file = folder / "generation_config.json"
    whole = {"bos_token_id": 256, "eos_token_id": [256], "max_length": 9, "temperature": 0.7,
             "do_sample": True, "top_k": 5, "_from_model_config": True}  # fmt: skip

    def use(mutant: bytes) -> None:
        file.write_bytes(mutant)
        load_model(folder)

    with restored(file):
        survive(json.dumps(whole).encode(), change_json, use, share=1 / 6)


@pytest.mark.parametrize("kind", ["wd", "converted", "vision"])
def test_weights(survive: Survive, folders: dict[str, Path], kind: str) -> None:
    folder, load = folders[kind], KINDS[kind][1]
    file = folder / "model.safetensors"

    def use(mutant: bytes) -> None:
        file.write_bytes(mutant)
        load(folder)

    with restored(file) as content:
        came = survive(content, change_safetensors, use, share=1 / 3)
    assert came["refused"]


def test_preprocessor_config(survive: Survive, folders: dict[str, Path]) -> None:
    file = folders["vision"] / "preprocessor_config.json"
    config = AutoConfig.from_pretrained(folders["vision"])

    def use(mutant: bytes) -> None:
        file.write_bytes(mutant)
        Prep.from_pretrained(file.parent, config)

    with restored(file) as content:
        came = survive(content, change_json, use)
    assert came["refused"]
    assert came["fine"]
