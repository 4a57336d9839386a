"""resize_token_embeddings: every family trains, generates, is saved and loads at its new size."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
)

from spikeformers.errors import ConfigError
from spikeformers.layers import SpikeLinear

Make = Callable[..., Any]
AUTO = {"we": AutoModelForMaskedLM, "we-classifier": AutoModelForSequenceClassification}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "wd": ("wd", {}),
    "wd, a2os2a": ("wd", {"attention": "a2os2a"}),
    "we": ("we", {}),
    "we classifier": ("we-classifier", {}),
    "bispikclm": ("bispikclm", {"spiking_head": True}),
    "gpt2": ("gpt2", {"attention": "cwssa"}),
    "gpt_neox": ("gpt_neox", {"attention": "ssa"}),
    "llama": ("llama", {"attention": "ssa", "ffn": "ni-lif"}),
    "qwen2": ("qwen2", {"attention": "kept"}),
}


def sizes_of(config: Any) -> set[int]:
    """The vocabulary wherever a config says it."""
    sizes = {config.vocab_size}
    if getattr(config, "source", None):
        sizes.add(config.source["vocab_size"])
    return sizes


@pytest.mark.parametrize("size", [57, 41])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("case", CASES)
def test_a_resized_model_is_a_model(
    make_family: Make, tmp_path: Path, case: str, tied: bool, size: int
) -> None:
    kind, choices = CASES[case]
    model = make_family(kind, tied=tied, dtype=torch.float32, **choices)
    ids = torch.randint(0, 41, (2, 9), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = model(input_ids=ids).logits
    head = model.get_output_embeddings()
    model.resize_token_embeddings(size)
    assert model.get_input_embeddings().weight.shape[0] == size
    assert sizes_of(model.config) == {size}
    with torch.no_grad():
        after = model(input_ids=ids).logits
    labels = ids
    if kind == "we-classifier":
        labels = torch.tensor([0, 1])
        assert torch.equal(after, before)
    else:
        assert type(model.get_output_embeddings()) is type(head)
        assert after.shape[-1] == size
        torch.testing.assert_close(after[..., :41], before[..., :41])

    loss = model.train()(input_ids=ids, labels=labels).loss
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 1e-3 * parameter.grad
    model.eval()
    if kind not in AUTO:
        written = model.generate(ids[:1], max_new_tokens=3, do_sample=False, pad_token_id=0)
        assert written.shape == (1, 12)
        assert int(written.max()) < size

    model.save_pretrained(tmp_path)
    assert sizes_of(type("Saved", (), json.loads((tmp_path / "config.json").read_text()))) == {size}
    auto: Any = AUTO.get(kind, AutoModelForCausalLM)
    loaded, info = auto.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[f"{what}_keys"] for what in ("missing", "unexpected", "mismatched")), info
    assert sizes_of(loaded.config) == {size}
    with torch.no_grad():
        assert torch.equal(loaded.eval()(input_ids=ids).logits, model(input_ids=ids).logits)
    if kind in ("gpt2", "gpt_neox", "llama", "qwen2"):
        assert model.model.config.vocab_size == loaded.model.config.vocab_size == size


def test_a_size_is_rounded_up_and_asked_for(make_family: Make) -> None:
    model = make_family("gpt2", tied=True)
    assert model.resize_token_embeddings().weight.shape == (50, 16)
    assert model.resize_token_embeddings(51, pad_to_multiple_of=8).weight.shape == (56, 16)
    assert model.config.vocab_size == model.vocab_size == model.model.config.vocab_size == 56


@torch.no_grad()
def test_new_rows_are_drawn_as_the_source_draws_them(make_family: Make) -> None:
    """Not left at the spread of 1 that torch gives an embedding."""
    model = make_family("llama")
    model.resize_token_embeddings(250, mean_resizing=False)
    for table in (model.get_input_embeddings(), model.get_output_embeddings()):
        assert float(table.weight[50:].std()) == pytest.approx(0.02, rel=0.1)


@torch.no_grad()
def test_a_resized_spiking_head_still_expands(make_family: Make) -> None:
    model = make_family("wd", spiking_head=True, levels=4)
    model.resize_token_embeddings(57)
    assert type(model.lm_head) is SpikeLinear
    ids = torch.arange(9)[None]
    binary = model.expand_to_binary()
    torch.testing.assert_close(binary(input_ids=ids).logits, model(input_ids=ids).logits)


def test_a_pad_token_that_would_lose_its_row_is_named(make_family: Make) -> None:
    model = make_family("llama")
    model.config.pad_token_id = 45
    with pytest.raises(ConfigError, match="41 tokens leave no row for pad_token_id 45"):
        model.resize_token_embeddings(41)
    model.config.pad_token_id = None
    assert model.resize_token_embeddings(41).weight.shape[0] == 41


def test_special_tokens_that_were_changed_are_saved(make_family: Make, tmp_path: Path) -> None:
    """As Trainer and TRL change them; they came back as the source's."""
    model = make_family("llama", dtype=torch.float32)
    model.config.pad_token_id, model.config.eos_token_id = 7, [3, 4]
    model.save_pretrained(tmp_path)
    config = AutoModelForCausalLM.from_pretrained(tmp_path).config
    assert (config.pad_token_id, config.eos_token_id) == (7, [3, 4])
    assert (config.source["pad_token_id"], config.source["eos_token_id"]) == (7, [3, 4])
