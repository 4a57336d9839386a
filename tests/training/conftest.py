"""A tiny corpus, its tokenizers and models that train in milliseconds."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
)

from spikeformers.data import load_corpus, make_tokenizer, tokenize_corpus
from spikeformers.models import build_config, build_model
from spikeformers.training import TrainConfig

WORDS = ["the", "spike", "of", "a", "neuron", "wins", "or", "loses", "and", "is", "quiet", "again"]


def write_corpus(path: Path) -> Path:
    """Twenty documents of random words; always the same."""
    draw = random.Random(7)
    documents = [" ".join(draw.choices(WORDS, k=150)) for _ in range(20)]
    path.mkdir(parents=True, exist_ok=True)
    for number, text in enumerate(documents):
        (path / f"{number:02}.txt").write_text(text)
    return path


@pytest.fixture(scope="session")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """``.store`` and ``.tokenizer`` for next-token models."""
    folder = tmp_path_factory.mktemp("corpus")
    corpus = load_corpus(str(write_corpus(folder / "text")))
    tokenizer = make_tokenizer("byte")
    return SimpleNamespace(
        store=tokenize_corpus(corpus, tokenizer, folder / "cache"), tokenizer=tokenizer
    )


@pytest.fixture(scope="session")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """``.store`` and ``.tokenizer`` for masked models."""
    folder = tmp_path_factory.mktemp("masked-corpus")
    corpus = load_corpus(str(write_corpus(folder / "text")))
    tokenizer = make_tokenizer("byte", masked=True)
    return SimpleNamespace(
        store=tokenize_corpus(corpus, tokenizer, folder / "cache"), tokenizer=tokenizer
    )


def gpt2(tokenizer: Any, seed: int = 0, dropout: float = 0.1) -> PreTrainedModel:
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=32, n_embd=16, n_layer=2, n_head=2,
        resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout,
        bos_token_id=tokenizer.eos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def bert(tokenizer: Any, seed: int = 0, dropout: float = 0.1) -> PreTrainedModel:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(tokenizer), max_position_embeddings=32, hidden_size=16,
        num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return BertForMaskedLM(config)


def spiking(preset: str, tokenizer: Any, seed: int = 0, **overrides: Any) -> PreTrainedModel:
    torch.manual_seed(seed)
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    small |= {"max_position_embeddings": 32, "dropout": 0.1, "intermediate_size": 32}
    return build_model(build_config(preset, len(tokenizer), small | overrides))


MODELS: dict[str, Callable[..., PreTrainedModel]] = {
    "gpt2": gpt2,
    "bert": bert,
    "wd": lambda tokenizer, **kw: spiking("wd-spikingformer-tiny", tokenizer, **kw),
    "we": lambda tokenizer, **kw: spiking("we-spikingformer-tiny", tokenizer, **kw),
}
MASKED = ("bert", "we")


@pytest.fixture(scope="session")
def fresh(causal: Any, masked: Any) -> Callable[..., tuple[PreTrainedModel, Any, Any]]:
    """``fresh("wd")`` gives (a fresh model, store, tokenizer), the same at each call."""

    def make(kind: str, **kw: Any) -> tuple[PreTrainedModel, Any, Any]:
        data = masked if kind in MASKED else causal
        return MODELS[kind](data.tokenizer, **kw), data.store, data.tokenizer

    return make


@pytest.fixture(scope="session")
def config() -> Callable[..., TrainConfig]:
    return tiny


def tiny(**changes: Any) -> TrainConfig:
    """Six steps of four windows of sixteen tokens."""
    values: dict[str, Any] = {
        "steps": 6, "batch_size": 4, "context": 16, "eval_every": 3, "eval_batches": 2,
        "save_every": 2, "log_every": 1, "learning_rate": 1e-2, "device": "cpu",
    }  # fmt: skip
    return TrainConfig.from_dict(values | changes)


@pytest.fixture
def full_disk() -> Callable[..., AbstractContextManager[None]]:
    """``with full_disk():`` files cannot grow beyond a few bytes; the kernel refuses the write."""
    resource = pytest.importorskip("resource")

    @contextmanager
    def limited(limit: int = 4096) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited


@pytest.fixture(scope="session")
def corpus_text() -> Callable[[Path], Path]:
    """``corpus_text(folder)`` writes the corpus there, for processes of their own."""
    return write_corpus
