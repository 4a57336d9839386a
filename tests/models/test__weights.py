"""A config is held against its weights before a model is built, and the weights must be finite."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
)

from spikeformers.conversion import load_source
from spikeformers.errors import CheckpointError
from spikeformers.export import pack
from spikeformers.models import build_model, build_vision_config, load_model, load_reference
from spikeformers.models import load_vision_model as open_vision
from spikeformers.models._weights import check_numbers, read_header
from spikeformers.models.classifier import load_classifier

Make = Callable[..., Any]


@pytest.fixture
def folder(make_model: Make, byte_tokenizer: Any, tmp_path: Path) -> Path:
    make_model("wd", vocab_size=len(byte_tokenizer)).save_pretrained(tmp_path / "model")
    byte_tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def masked(make_model: Make, byte_tokenizer: Any, tmp_path: Path) -> Path:
    make_model("we", vocab_size=len(byte_tokenizer)).save_pretrained(tmp_path / "masked")
    byte_tokenizer.save_pretrained(tmp_path / "masked")
    return tmp_path / "masked"


@pytest.fixture
def unbuilt(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model is built, not even one without memory."""

    def refuse(*_: Any, **__: Any) -> None:
        pytest.fail("a model was built")

    for auto in (AutoModelForCausalLM, AutoModelForSequenceClassification):
        monkeypatch.setattr(auto, "from_pretrained", refuse)
        monkeypatch.setattr(auto, "from_config", refuse)
    monkeypatch.setattr(AutoConfig, "from_pretrained", refuse)


def edit(folder: Path, **values: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize(
    ("key", "held"),
    [
        ("num_hidden_layers", r"\d+ tensors"),
        ("hidden_size", "no tensor with more than 259 values in a row"),
        ("vocab_size", "no tensor with more than 259 values in a row"),
        ("intermediate_size", "no tensor with more than 259 values in a row"),
        ("num_attention_heads", "no tensor with more than 259 values in a row"),
        ("num_labels", "no tensor with more than 259 values in a row"),
    ],
)
def test_numbers_of_no_such_weights_are_refused_before_anything_is_built(
    key: str, held: str, folder: Path, masked: Path, unbuilt: None
) -> None:
    message = rf"config\.json: {key} is 1,000,000,000, and the weights beside it hold {held}"
    for path in (folder, masked):
        edit(path, **{key: 10**9})
    for load in (load_model, load_reference, load_source):
        with pytest.raises(CheckpointError, match=message):
            load(str(folder))
    with pytest.raises(CheckpointError, match=message):
        load_classifier(masked, ("no", "yes"), 0)


def test_a_million_layers_inside_a_converted_models_source_are_seen() -> None:
    values = {"model_type": "neurtransformer", "source": {"n_layer": 10**6, "use_cache": True}}
    with pytest.raises(CheckpointError, match="x: n_layer is 1,000,000, and the weights"):
        check_numbers(Path("x"), values, {"a": (3, 4)})


def test_numbers_that_are_no_sizes_of_tensors_may_be_large() -> None:
    values = {"max_position_embeddings": 10**6, "rope_theta": 10**7, "bos_token_id": 128_000}
    check_numbers(Path("x"), {**values, "num_hidden_layers": 32}, {"a": (3, 4)})


@pytest.mark.parametrize(
    "values",
    [{"hidden_size": 8192}, {"intermediate_size": 8192}, {"vocab_size": 60_000}],
    ids=str,
)
def test_shapes_are_compared_before_memory_is_taken(
    values: dict[str, int], folder: Path, masked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (folder, masked):
        edit(path, **values)
    for auto in (AutoModelForCausalLM, AutoModelForSequenceClassification):
        monkeypatch.setattr(auto, "from_pretrained", lambda *_, **__: pytest.fail("built"))
    message = r"does not belong to its config\.json .*of another shape \(first: "
    for load in (load_model, load_reference):
        with pytest.raises(CheckpointError, match=message):
            load(str(folder))
    with pytest.raises(CheckpointError, match=message):
        load_classifier(masked, ("no", "yes"), 0)


def test_two_hundred_layers_of_which_two_are_there_take_no_memory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(folder, num_hidden_layers=200, hidden_size=16)
    (folder / "model.safetensors").unlink()
    save_file({"model.norm.weight": torch.ones(16)}, folder / "model.safetensors")
    monkeypatch.setattr("spikeformers.models._weights.LEEWAY", 1 << 10)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("x"))
    with pytest.raises(CheckpointError, match=r"more weights than the 16 that are there"):
        load_model(folder)


def test_a_model_saved_without_its_head_or_under_the_names_of_its_base_still_loads(
    tmp_path: Path, byte_tokenizer: Any
) -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=259, n_embd=8, n_layer=2, n_head=2)).eval()
    model.transformer.save_pretrained(tmp_path)  # names without "transformer."
    byte_tokenizer.save_pretrained(tmp_path)
    loaded, _ = load_reference(str(tmp_path))
    ids = torch.arange(5)[None]
    assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_sharded_weights_are_read_together(folder: Path, byte_tokenizer: Any) -> None:
    whole = read_header(folder)
    model, _ = load_model(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="4KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    assert read_header(folder) == whole
    again, _ = load_model(folder)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    ("key", "value", "held"),
    [
        ("llama.block_count", 10**6, r"\d+ tensors"),
        ("llama.embedding_length", 10**9, "no tensor with more than"),
        ("llama.attention.head_count", 10**9, "no tensor with more than"),
    ],
)
def test_a_gguf_file_is_held_against_its_tensors(
    key: str, value: int, held: str, tmp_path: Path, unbuilt: None
) -> None:
    gguf = pytest.importorskip("gguf", reason="gguf is not installed")
    writer = gguf.GGUFWriter(str(tmp_path / "m.gguf"), "llama")
    writer.add_uint32(key, value)
    writer.add_tensor("token_embd.weight", torch.ones(5, 32).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(CheckpointError, match=rf"m\.gguf: {key} is {value:,}, and .* hold {held}"):
        load_reference(str(tmp_path), gguf_file="m.gguf")


# --- finite ---------------------------------------------------------------------------------------


def spoil(folder: Path, name: str, value: float) -> None:
    """Put one NaN or infinity into a tensor; the file is otherwise whole."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors[name].view(-1)[1] = value
    save_file(tensors, file, {"format": "pt"})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_refused_by_name(
    value: float, folder: Path, masked: Path
) -> None:
    name = "model.layers.1.mlp.up.weight"
    for path in (folder, masked):
        spoil(path, name, value)
    message = rf"1 of the 512 values of {name} are NaN or infinite"
    for load in (load_model, load_reference):
        with pytest.raises(CheckpointError, match=message):
            load(str(folder))
    with pytest.raises(CheckpointError, match=message):
        load_classifier(masked, ("no", "yes"), 0)


def test_an_image_model_that_is_not_finite_is_refused_by_name(tmp_path: Path) -> None:
    model = build_model(build_vision_config("a2os2a-digits", {"num_hidden_layers": 1}))
    model.save_pretrained(tmp_path)
    name = next(name for name, parameter in model.named_parameters() if parameter.numel() > 1)
    spoil(tmp_path, name, math.nan)
    with pytest.raises(CheckpointError, match=f"values of {name} are NaN or infinite"):
        open_vision(tmp_path)


def test_what_fp16_cannot_hold_is_said_to_be_that(tmp_path: Path, byte_tokenizer: Any) -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=259, n_embd=8, n_layer=1, n_head=2))
    with torch.no_grad():
        model.transformer.ln_f.weight[0] = 1e5
    model.save_pretrained(tmp_path)
    byte_tokenizer.save_pretrained(tmp_path)
    load_reference(str(tmp_path))
    with pytest.raises(CheckpointError, match=r"ln_f\.weight are .* may be finite in bf16 or fp32"):
        load_reference(str(tmp_path), dtype="fp16")


def test_a_model_in_memory_that_is_not_finite_is_not_packed(make_model: Make) -> None:
    model = make_model("wd").eval()
    with torch.no_grad():
        model.model.layers[0].mlp.up.weight[0, 0] = math.nan
    with pytest.raises(CheckpointError, match=r"layers\.0\.mlp\.up\.weight are NaN or infinite"):
        pack(model, None)
