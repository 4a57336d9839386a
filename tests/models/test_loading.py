"""Model folders: what opens, and one clear message for each that does not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from spikeformers.errors import CheckpointError
from spikeformers.models import build_model, control_of, load_model

Make = Callable[..., Any]


@pytest.fixture
def folder(make_model: Make, byte_tokenizer: Any, tmp_path: Path) -> Path:
    path = tmp_path / "model"
    make_model("wd", vocab_size=len(byte_tokenizer)).save_pretrained(path)
    byte_tokenizer.save_pretrained(path)
    return path


def edit(folder: Path, **values: Any) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text()) | values
    file.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


@pytest.mark.parametrize("kind", ["wd", "we", "we-classifier"])
def test_opens_each_kind(make_model: Make, byte_tokenizer: Any, tmp_path: Path, kind: str) -> None:
    saved = make_model(kind, vocab_size=len(byte_tokenizer)).train()
    saved.save_pretrained(tmp_path)
    byte_tokenizer.save_pretrained(tmp_path)
    model, tokenizer = load_model(str(tmp_path))
    assert type(model) is type(saved)
    assert not model.training
    tokens = torch.tensor([tokenizer.encode("spike")])
    assert tokens.tolist() == [byte_tokenizer.encode("spike")]
    assert tokenizer.pad_token == "<pad>"
    with torch.no_grad():
        assert torch.equal(model(tokens).logits, saved.eval()(tokens).logits)


def test_opens_a_dense_twin(make_config: Make, byte_tokenizer: Any, tmp_path: Path) -> None:
    config = make_config("wd", vocab_size=len(byte_tokenizer), position="learned")
    twin = build_model(control_of(config)).eval()
    twin.save_pretrained(tmp_path)
    byte_tokenizer.save_pretrained(tmp_path)
    model, _ = load_model(tmp_path)
    tokens = torch.arange(7)[None]
    with torch.no_grad():
        assert torch.equal(model(tokens).logits, twin(tokens).logits)


def refused(path: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(path)
    assert caught.value.exit_code == 1
    assert path.name in str(caught.value)


def test_missing_folder(tmp_path: Path) -> None:
    refused(tmp_path / "nothing", "does not exist; a model is a folder with config.json")


def test_a_file_is_no_folder(folder: Path) -> None:
    refused(folder / "model.safetensors", "is a file, not a model folder")


@pytest.mark.parametrize("name", ["model.pt", "pytorch_model.bin", "x.pkl", "last.ckpt"])
def test_a_pickle_file(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(b"\x80\x04N.")
    refused(file, "is a pickle, which can run code when it is opened; it is not loaded")


def test_a_folder_with_a_pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(folder, "holds pytorch_model.bin but no safetensors; pickles are never loaded")


def test_a_pickle_beside_safetensors_is_left_alone(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04N.")
    load_model(folder)


def test_empty_folder(tmp_path: Path) -> None:
    refused(tmp_path, "has no config.json, so it is not a model folder")


def test_an_unfinished_run(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    refused(tmp_path, "has not finished: continue it with --resume")


def test_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    refused(folder, r"has no model\.safetensors")


@pytest.mark.parametrize("keep", [0, 4, 200, 0.5, 0.99])
def test_truncated_weights(folder: Path, keep: float) -> None:
    file = folder / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: keep if isinstance(keep, int) else int(len(content) * keep)])
    refused(folder, "is truncated or not a safetensors file")


def test_weights_of_another_depth(folder: Path, make_model: Make, tmp_path: Path) -> None:
    make_model("wd", vocab_size=259, num_hidden_layers=3).save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.safetensors", folder)
    refused(folder, r"does not belong to its config\.json .*unexpected \(first: model\.layers\.2")


def test_weights_of_another_width(folder: Path, make_model: Make, tmp_path: Path) -> None:
    make_model("wd", vocab_size=259, intermediate_size=64).save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.safetensors", folder)
    refused(folder, r"does not belong to its config\.json .*of another shape \(first: ")


def test_weights_of_another_model(folder: Path) -> None:
    save_file({"transformer.h.0.weight": torch.ones(2, 2)}, folder / "model.safetensors")
    refused(folder, r"does not belong to its config\.json .*missing .*unexpected")


def test_one_tensor_missing(folder: Path) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.0.mlp.up.weight"]
    save_file(tensors, file, {"format": "pt"})
    refused(folder, r"1 missing \(first: model\.layers\.0\.mlp\.up\.weight\)")


@pytest.mark.parametrize("content", ["{", "", "\x00\xff", "model_type: wd_spikingformer"])
def test_broken_config(folder: Path, content: str) -> None:
    (folder / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"config\.json (is not valid JSON|cannot be read: )"):
        load_model(folder)


def test_config_that_is_no_object(folder: Path) -> None:
    (folder / "config.json").write_text("[]")
    refused(folder, "config")


@pytest.mark.parametrize(
    "values",
    [
        {"model_type": None},
        {"model_type": "wd_spikeformer"},
        {"attention": "wssa"},
        {"hidden_size": "wide"},
        {"num_attention_heads": 3},
    ],
    ids=str,
)
def test_config_with_a_wrong_value(folder: Path, values: dict[str, Any]) -> None:
    edit(folder, **values)
    refused(folder, "wssa|wd_spikeformer|model_type|hidden_size|heads")


def test_no_tokenizer(folder: Path) -> None:
    for file in folder.glob("*token*"):
        file.unlink()
    refused(folder, "tokenizer")


def test_broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")
    refused(folder, "tokenizer")


def test_nothing_is_written_by_opening(folder: Path) -> None:
    def contents() -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in folder.iterdir()}

    before = contents()
    load_model(folder)
    assert contents() == before


def test_a_folder_with_code_of_its_own_is_refused_without_a_question(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Transformers would ask whether to run it, wherever somebody sits at a terminal."""

    def refuse_input(prompt: str = "") -> str:
        raise AssertionError(f"was asked {prompt!r}")

    monkeypatch.setattr("builtins.input", refuse_input)
    (folder / "theirs.py").write_text("raise SystemExit('it was run')\n")
    edit(folder, model_type="theirs", auto_map={"AutoConfig": "theirs.Config"})
    refused(folder, "names the model_type 'theirs', .* Code in a model folder is never run")
