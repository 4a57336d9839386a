"""tokenizer.json and tokenizer_config.json, as a model folder's and as the one to train with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spikeformers.data import make_tokenizer
from spikeformers.data.tokenizers import load_tokenizer

from .conftest import Survive, change_json

TEXT = "The quick é 🙂 <|endoftext|> [MASK]\n\t of 1,234"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer("byte", masked=True).save_pretrained(path)
    return path


def use(tokenizer: Any) -> None:
    ids = tokenizer(TEXT)["input_ids"]
    tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_loading(survive: Survive, folder: Path, name: str) -> None:
    file = folder / name
    content = file.read_bytes()

    def load(mutant: bytes) -> None:
        file.write_bytes(mutant)
        use(load_tokenizer(folder))

    try:
        came = survive(content, change_json, load)
    finally:
        file.write_bytes(content)
    assert came["fine"]
    assert came["refused"]


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("masked", [False, True])
def test_training_with_them(survive: Survive, folder: Path, name: str, masked: bool) -> None:
    file = folder / name
    content = file.read_bytes()

    def make(mutant: bytes) -> None:
        file.write_bytes(mutant)
        use(make_tokenizer(str(folder), masked=masked))

    try:
        came = survive(content, change_json, make, share=0.5)
    finally:
        file.write_bytes(content)
    assert came["fine"]
    assert came["refused"]
