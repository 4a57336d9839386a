"""Which models are taken: local folders, hub names when offline, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import OPTConfig, OPTForCausalLM, PreTrainedModel

from spikeformers.conversion import calibration_windows, load_source
from spikeformers.data import TokenSplit, make_tokenizer
from spikeformers.errors import CheckpointError, ConfigError, DataError, OfflineError
from spikeformers.models import build_config, build_model

Dense = Callable[..., PreTrainedModel]


def saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    make_tokenizer("byte").save_pretrained(folder)
    return folder


def test_a_folder(dense: Dense, tmp_path: Path) -> None:
    model = dense("llama", vocab_size=300)
    loaded, tokenizer = load_source(str(saved(model, tmp_path)))
    assert loaded.config.model_type == "llama"
    assert loaded.dtype == torch.float32
    assert tokenizer.eos_token_id is not None
    ours, theirs = loaded.state_dict(), model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_an_architecture_without_a_conversion(tmp_path: Path) -> None:
    config = OPTConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=16,
        word_embed_proj_dim=16, max_position_embeddings=16,
    )  # fmt: skip
    folder = saved(OPTForCausalLM(config), tmp_path)
    with pytest.raises(ConfigError, match="'opt' has no conversion; known: gpt2, gpt_neox, llama"):
        load_source(str(folder))


@pytest.mark.parametrize("preset", ["wd-spikingformer-tiny", "bispikclm-tiny"])
def test_a_model_that_spikes_already(preset: str, tmp_path: Path) -> None:
    build_model(build_config(preset, 60)).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"is a spiking model \((wd_spiking|bispik)\w+\) already"):
        load_source(str(tmp_path))


def test_a_quantised_model(dense: Dense, tmp_path: Path) -> None:
    folder = saved(dense("llama"), tmp_path)
    path = folder / "config.json"
    values = json.loads(path.read_text())
    values["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    path.write_text(json.dumps(values))
    with pytest.raises(ConfigError, match="is quantised, and a conversion needs the real weights"):
        load_source(str(folder))


def test_a_hub_name_without_a_network() -> None:
    """Through the ordinary Transformers path; tests run with the hub switched off."""
    with pytest.raises(OfflineError, match="openai-community/gpt2"):
        load_source("openai-community/gpt2")


def test_a_hub_name_reaches_transformers(
    dense: Dense, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cached hub snapshot, laid out as huggingface_hub does, loads by its name."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("transformers.utils.hub.TRANSFORMERS_CACHE", str(tmp_path), raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    root = tmp_path / "models--someone--tiny"
    saved(dense("gpt2", vocab_size=300), root / "snapshots" / "abc")
    (root / "refs").mkdir()
    (root / "refs/main").write_text("abc")
    model, _ = load_source("someone/tiny")
    assert model.config.model_type == "gpt2"


def test_a_folder_that_is_not_there() -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        load_source("./nowhere")


def split(tmp_path: Path, tokens: int) -> TokenSplit:
    path = tmp_path / "train.bin"
    np.arange(tokens, dtype="<u2").tofile(path)
    return TokenSplit("train", path, "<u2", tokens, tokens, tokens, 1)


def test_calibration_windows_are_spread_evenly(tmp_path: Path) -> None:
    windows = calibration_windows(split(tmp_path, 100), 10, 40)
    assert windows.shape == (4, 10)
    assert windows[:, 0].tolist() == [0, 30, 60, 90]
    assert calibration_windows(split(tmp_path, 25), 10, 400)[:, 0].tolist() == [0, 15]


def test_no_text_to_calibrate_on(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="too short to calibrate"):
        calibration_windows(split(tmp_path, 1), 10, 40)
    with pytest.raises(ConfigError, match="at least 1 token, not 0"):
        calibration_windows(split(tmp_path, 50), 10, 0)
