"""The library function behind the measured part of `spikeformers energy`, on real models."""

from __future__ import annotations

import pytest
import torch

from spikeformers.errors import UsageError
from spikeformers.export import pack
from spikeformers.models import build_config, build_model, build_vision_config, control_of
from spikeformers.studies import measure_folder

pytest.importorskip("spikeformers.kernels._native")

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
}


def saved(config, folder):
    torch.manual_seed(0)
    model = build_model(config).eval()
    model.save_pretrained(folder)
    return model, build_model(control_of(config))


def test_a_causal_model_beside_the_engine(tmp_path):
    model, _ = saved(build_config("wd-spikingformer-tiny", 50, SIZES), tmp_path)
    ids = torch.arange(32).view(1, 32)
    result = measure_folder(
        tmp_path, model, None, [ids], pack=pack, prompt_tokens=8, new_tokens=4, repeats=1, warmup=0
    )
    assert set(result.systems) == {"model", "engine-int8", "engine-fp32"}
    assert result.absent == {}
    quantised, whole = (result.systems[f"engine-{kind}"] for kind in ("int8", "fp32"))
    counted = [system.phases["decode"].counted for system in (quantised, whole)]
    assert 0 < counted[0]["weight_bytes"] < counted[1]["weight_bytes"]
    assert counted[0]["events"] < counted[0]["neurons"]
    stored = sum(p.numel() * 4 for p in (*model.parameters(), *model.buffers()))
    assert result.systems["model"].weight_bytes == stored
    # The engine's process holds neither torch nor Transformers.
    assert quantised.memory.peak_bytes < result.systems["model"].memory.peak_bytes / 2


@pytest.mark.slow
def test_images_beside_the_dense_twin(tmp_path):
    model, twin = saved(build_vision_config("a2os2a-digits"), tmp_path)
    size = model.config.image_size
    images = {
        "pixel_values": torch.rand(3, model.config.num_channels, size, size),
        "labels": torch.zeros(3, dtype=torch.long),
    }
    result = measure_folder(tmp_path, model, twin, [images], pack=pack, repeats=1, warmup=0)
    assert set(result.systems) == {"model", "control"}
    assert result.systems["control"].phases["forward"].unit == "image"
    assert result.setting["images"] == result.setting["batch_size"] == 3
    assert "the engine runs WD-Spikingformer" in result.absent["engine"]


@pytest.mark.slow
def test_a_masked_model(tmp_path):
    model, _ = saved(build_config("we-spikingformer-tiny", 50, SIZES), tmp_path)
    ids = torch.arange(24).view(2, 12)
    result = measure_folder(tmp_path, model, None, [ids], pack=pack, repeats=1, warmup=0)
    assert list(result.systems["model"].phases) == ["forward"]
    assert (result.setting["batch_size"], result.setting["tokens"]) == (2, 24)


def test_more_tokens_than_the_text_has(tmp_path):
    model, _ = saved(build_config("wd-spikingformer-tiny", 50, SIZES), tmp_path)
    with pytest.raises(UsageError, match="more than the 32 tokens"):
        measure_folder(tmp_path, model, None, [torch.arange(32).view(1, 32)], prompt_tokens=30)
