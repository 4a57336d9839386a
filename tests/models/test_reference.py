"""Causal models from folders; what is none is refused with a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertLMHeadModel, GPT2Config, GPT2LMHeadModel

from spikeformers.data import make_tokenizer
from spikeformers.errors import CheckpointError, ConfigError, OfflineError
from spikeformers.models import build_config, build_model, load_reference

BYTES = make_tokenizer("byte")
IDS = torch.arange(8)[None]


def saved(folder: Path, model: Any, tokenizer: Any = BYTES) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=258, n_positions=16, n_embd=8, n_layer=2, n_head=2)
    return saved(tmp_path / "gpt2", GPT2LMHeadModel(config).to(torch.bfloat16))


def test_weights_keep_their_precision_unless_told_otherwise(gpt2: Path) -> None:
    model, tokenizer = load_reference(str(gpt2))
    assert model.dtype == torch.bfloat16
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert tokenizer.get_vocab() == BYTES.get_vocab()
    assert load_reference(str(gpt2), dtype="fp32")[0].dtype == torch.float32
    with pytest.raises(ConfigError, match="dtype is 'fp8'; it must be one of auto, fp32"):
        load_reference(str(gpt2), dtype="fp8")


def test_maps_are_returned_where_asked_for(gpt2: Path) -> None:
    maps = load_reference(str(gpt2), attentions=True)[0](IDS, output_attentions=True).attentions
    assert [tuple(weights.shape) for weights in maps] == [(1, 2, 8, 8)] * 2
    assert load_reference(str(gpt2))[0].config._attn_implementation == "sdpa"


def test_a_model_of_this_project(tmp_path: Path) -> None:
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = build_model(build_config("wd-spikingformer-tiny", 258, small)).eval()
    model_again, _ = load_reference(str(saved(tmp_path, model)), attentions=True)
    assert torch.equal(model_again(IDS).logits, model(IDS).logits)


def test_a_tokenizer_without_padding_gets_its_end_token(gpt2: Path) -> None:
    config = json.loads((gpt2 / "tokenizer_config.json").read_text())
    (gpt2 / "tokenizer_config.json").write_text(json.dumps(config | {"pad_token": None}))
    _, tokenizer = load_reference(str(gpt2))
    assert (tokenizer.pad_token, len(tokenizer)) == (tokenizer.eos_token, len(BYTES))
    (gpt2 / "tokenizer_config.json").write_text(json.dumps(config | {"eos_token": None}))
    with pytest.raises(ConfigError, match="names no eos token"):
        load_reference(str(gpt2))


def test_masked_models_are_refused(tmp_path: Path) -> None:
    config = BertConfig(
        vocab_size=258, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=16,
    )  # fmt: skip
    folder = saved(tmp_path / "bert", BertForMaskedLM(config))
    with pytest.raises(ConfigError, match=r"BertForMaskedLM\) predicts masked tokens"):
        load_reference(str(folder))


def test_a_model_that_sees_later_tokens_is_refused() -> None:
    from spikeformers.models.reference import refuse_acausal

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 16, "initializer_range": 1.0}
    decoder = BertLMHeadModel(BertConfig(vocab_size=99, is_decoder=True, **sizes)).eval()
    refuse_acausal("bert", decoder)
    encoder = BertLMHeadModel(BertConfig(vocab_size=99, **sizes)).eval()
    with pytest.raises(ConfigError, match="lets a token see later ones"):
        refuse_acausal("bert", encoder)


def test_what_cannot_be_read(gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        load_reference(str(tmp_path / "none"))
    with pytest.raises(OfflineError, match=r"'some/model' is not a folder here.*HF_HUB_OFFLINE"):
        load_reference("some/model")
    with pytest.raises(CheckpointError, match=r"has no x\.gguf; it holds no GGUF file"):
        load_reference(str(gpt2), gguf_file="x.gguf")
    (tmp_path / "ggufs").mkdir()
    (tmp_path / "ggufs" / "a.gguf").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"name the file: --gguf-file a\.gguf"):
        load_reference(str(tmp_path / "ggufs"))
    with pytest.raises(CheckpointError, match="cannot be loaded as a causal model"):
        load_reference(str(tmp_path / "ggufs"), gguf_file="a.gguf")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"need the gguf package"):
        load_reference(str(tmp_path / "ggufs"), gguf_file="a.gguf")


def test_missing_weights(gpt2: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(gpt2 / "model.safetensors")
    del state["transformer.ln_f.weight"]
    save_file(state, gpt2 / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 weights are missing \(first: transformer.ln_f"):
        load_reference(str(gpt2))


def write_gguf(path: Path) -> None:
    """A LLaMA of one block and width 32, in float32, with a byte-level tokenizer of 5 tokens."""
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(16)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(16)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(5)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<s>", "</s>", "a", "b", "ab"])
    writer.add_token_types([3, 3, 1, 1, 1])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    draw = np.random.default_rng(0)
    shapes = {"token_embd": (5, 32), "output": (5, 32), "output_norm": (32,)}
    block = {f"attn_{role}": (32, 32) for role in ("q", "k", "v", "output")}
    block |= {"attn_norm": (32,), "ffn_norm": (32,), "ffn_gate": (64, 32), "ffn_up": (64, 32)}
    block |= {"ffn_down": (32, 64)}
    for name, shape in (shapes | {f"blk.0.{key}": shape for key, shape in block.items()}).items():
        writer.add_tensor(f"{name}.weight", draw.normal(0, 0.5, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_becomes_a_model_that_can_be_saved(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="gguf is not installed")
    write_gguf(tmp_path / "m.gguf")
    model, tokenizer = load_reference(str(tmp_path), gguf_file="m.gguf")
    assert not model.is_quantized  # Trainer trains no quantised model
    again, _ = load_reference(str(saved(tmp_path / "saved", model, tokenizer)))
    ids = torch.tensor([[2, 3, 4, 2]])
    assert torch.equal(again(ids).logits, model(ids).logits)
    assert "quantization_config" not in json.loads((tmp_path / "saved/config.json").read_text())
