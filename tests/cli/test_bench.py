from __future__ import annotations

import pytest

pytest.importorskip("spikeformers.kernels._native")

OURS = {"engine-int8", "engine-int4", "engine-fp32", "pytorch", "dense-twin"}
TIMED = OURS | {"engine-int8-dense-twin"}
PARTS = {"products", "neurons", "attention", "head", "sampling", "other"}


@pytest.mark.parametrize("what", ["decode", "prefill"])
def test_the_engine_beside_pytorch(spikeformers, causal, what):
    arguments = ("--prompt-tokens", 8, "--repeats", 1, "--no-peers")
    if what == "decode":
        arguments += ("--new-tokens", 6)
    result = spikeformers("bench", what, causal, *arguments, "--json").json
    assert result["what"] == what
    assert set(result["results"]) == set(result["ratios"]) == set(result["cpu_ratios"]) == TIMED
    ours = result["results"]["engine-int8"]
    assert 0 < ours["density"] < 1
    assert (
        ours["weight_bytes_per_token"] < result["results"]["engine-fp32"]["weight_bytes_per_token"]
    )
    assert 0 < ours["weight_share"] < 1
    if what == "decode":
        assert set(ours["microseconds"]) == PARTS
        assert all(time > 0 for time in ours["microseconds"].values())
    for name, ratio in result["ratios"].items():
        timed = result["results"][name]
        assert ratio == pytest.approx(ours["tokens_per_second"] / timed["tokens_per_second"])
        assert timed["slowest"] <= timed["tokens_per_second"] <= timed["fastest"]
        assert timed["milliseconds"]["p50"] <= timed["milliseconds"]["p99"]
    ended = spikeformers("bench", what, causal, *arguments)
    assert "dense-twin" in ended.out
    assert "bytes of weights" in ended.err
    assert ("time of a token: " in ended.err) == (what == "decode")


def test_a_dense_model_has_no_twin(spikeformers, tmp_path, causal):
    from transformers import AutoConfig, AutoTokenizer

    from spikeformers.models import build_model, control_of

    build_model(control_of(AutoConfig.from_pretrained(causal))).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(causal).save_pretrained(tmp_path)
    arguments = ("--prompt-tokens", 8, "--new-tokens", 6, "--repeats", 1, "--no-peers", "--json")
    result = spikeformers("bench", "decode", tmp_path, *arguments).json
    assert set(result["results"]) == OURS - {"dense-twin"}
    assert result["results"]["engine-int8"]["weight_share"] > 0.5


@pytest.mark.slow
def test_memory_of_processes(spikeformers, causal):
    result = spikeformers("bench", "memory", causal, "--json").json
    assert set(result["results"]) == OURS
    # The engine's process has neither torch nor Transformers in it.
    assert result["ratios"]["pytorch"] < 0.5
    sizes = {name: figures["weight_bytes"] for name, figures in result["results"].items()}
    assert sizes["engine-int8"] < sizes["engine-fp32"]


def test_bad_requests(spikeformers, causal, masked):
    for arguments, message in (
        ((causal, "--prompt-tokens", 40), "more than the context of 32"),
        ((masked,), "the engine runs WD-Spikingformer"),
    ):
        ended = spikeformers("bench", "decode", *arguments)
        assert ended.code == 2
        assert message in ended.err
