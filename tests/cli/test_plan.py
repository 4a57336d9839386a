from __future__ import annotations

import pytest

SMALL = ("--preset", "wd-spikingformer-tiny", "--vocabulary", 300, "--set", "hidden_size=64")


def test_every_table_says_that_it_is_estimated(spikeformers):
    ended = spikeformers("plan", *SMALL, "--gpus", 8, "--gpu", "h100")
    assert ended.code == 0, ended.err
    assert "wd-spikingformer-tiny, estimated" in ended.out
    assert "Memory of one GPU, estimated" in ended.out
    assert "8 x h100, fsdp" in ended.out
    assert "100,000,000, https://arxiv.org/abs/2604.11321" in ended.out


@pytest.mark.slow
def test_json_and_options(spikeformers):
    ended = spikeformers("plan", *SMALL, "--control", "--tokens", 1000, "--mfu", 0.5, "--json")
    assert ended.code == 0, ended.err
    assert ended.json["estimated"] is True
    assert ended.json["model_type"] == "gpt_neox"
    assert (ended.json["tokens"], ended.json["mfu"]) == (1000, 0.5)
    assert ended.json["days"] == 1000 / ended.json["tokens_per_second"] / 86400


def test_an_unknown_gpu_names_the_nearest(spikeformers):
    ended = spikeformers("plan", *SMALL, "--gpu", "h10")
    assert ended.code == 2
    assert "Did you mean 'h100'?" in ended.err
