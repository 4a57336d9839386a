"""Tiny models, their tokens, and a reader of PNG files."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from spikeformers.data import load_corpus, make_tokenizer, tokenize_corpus
from spikeformers.models import build_config, build_model, control_of

WORDS = ["the", "spike", "of", "a", "neuron", "wins", "or", "loses", "and", "all", "is", "quiet"]
SMALL = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 32,
}  # fmt: skip


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """``.corpus``, ``.tokenizer`` (bytes) and ``.store`` of twenty small documents."""
    folder, draw = tmp_path_factory.mktemp("text"), random.Random(7)
    (folder / "text").mkdir()
    for number in range(20):
        (folder / "text" / f"{number:02}.txt").write_text(" ".join(draw.choices(WORDS, k=150)))
    corpus, tokenizer = load_corpus(folder / "text"), make_tokenizer("byte")
    store = tokenize_corpus(corpus, tokenizer, folder / "cache")
    return SimpleNamespace(corpus=corpus, tokenizer=tokenizer, store=store)


@pytest.fixture
def build(tokens: Any) -> Callable[..., Any]:
    """``build(wta="top_k")``: a fresh tiny model; ``build(control=True)`` its dense twin."""

    def make(
        preset: str = "wd-spikingformer-tiny", *, control: bool = False, **changes: Any
    ) -> Any:
        config = build_config(preset, len(tokens.tokenizer), SMALL | changes)
        torch.manual_seed(0)
        return build_model(control_of(config) if control else config).eval()

    return make


@pytest.fixture
def read_png() -> Callable[[Path], NDArray[Any]]:
    """Pixels ``[height, width, 3]`` of a PNG, 0 to 1."""

    def read(path: Path) -> NDArray[Any]:
        from matplotlib.image import imread

        assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        return np.asarray(imread(path))[..., :3]

    return read
