"""What a measuring process opens, opened in this one."""

from __future__ import annotations

import importlib

import pytest
import torch

from spikeformers.errors import ConfigError
from spikeformers.evaluation.measured import text_program, whole_program
from spikeformers.evaluation.measured.programs import save_batch
from spikeformers.models import build_model, build_vision_config


def opened(program):
    module, _, function = program.opener.partition(":")
    return getattr(importlib.import_module(module), function)(**program.arguments)


def test_a_causal_model_reads_and_steps(setup, tmp_path):
    model, _ = setup("wd")
    model.save_pretrained(tmp_path)
    system = opened(text_program(tmp_path))
    assert system.weight_bytes == sum(
        x.numel() * 4 for x in (*model.parameters(), *model.buffers())
    )
    system.begin([5, 6, 7])
    system.step(8)
    assert system._cache.get_seq_length() == 4


def test_a_masked_model_and_one_of_images_read_a_batch(setup, tmp_path):
    masked, _ = setup("we")
    masked.save_pretrained(tmp_path / "we")
    torch.manual_seed(0)
    vision = build_model(build_vision_config("a2os2a-digits")).eval()
    vision.save_pretrained(tmp_path / "vision")
    size = vision.config.image_size
    images = torch.rand(2, vision.config.num_channels, size, size)
    labels = torch.zeros(2, dtype=torch.long)
    for folder, batch, key in (
        ("we", torch.arange(8).view(2, 4), "input_ids"),
        ("vision", {"pixel_values": images, "labels": labels}, "pixel_values"),
    ):
        file = tmp_path / f"{folder}.safetensors"
        save_batch(batch, file)
        system = opened(whole_program(tmp_path / folder, file))
        seen = []
        system.model.register_forward_pre_hook(
            lambda module, args, arguments, seen=seen: seen.append(arguments), with_kwargs=True
        )
        system.begin([])
        assert list(seen[0]) == [key]  # without labels, which would cost a loss
        expected = batch if folder == "we" else images
        assert torch.equal(seen[0][key], expected)
        with pytest.raises(ConfigError, match="does not decode"):
            system.step(1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is an accelerator")
def test_an_accelerator_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="torch finds no accelerator"):
        opened(text_program(tmp_path, device="cuda:0"))
