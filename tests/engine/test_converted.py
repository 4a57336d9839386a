"""Converted models in the engine against PyTorch: what neurons say, logits, text.

Seeds are such that no current lies within a rounding error of half a spike: there PyTorch and the
engine, like PyTorch in float32 and in float64, may count one apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from spikeformers.conversion import Rule, make_plan
from spikeformers.conversion.calibration import collect, read_sample
from spikeformers.conversion.stages import convert_module
from spikeformers.engine import Engine
from spikeformers.errors import ConfigError, UsageError
from spikeformers.export import pack
from spikeformers.export.quantising import grouped_reals
from spikeformers.models import NeurTransformerConfig, NeurTransformerForCausalLM
from spikeformers.neurons import observe

Ids = Callable[..., list[int]]
Convert = Callable[..., NeurTransformerForCausalLM]

SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 600,
    "bos_token_id": None,
    "eos_token_id": None,
}
GROUPED = SIZES | {"num_key_value_heads": 2, "intermediate_size": 36}
CONFIGS: dict[str, Callable[..., Any]] = {
    "gpt2": lambda **more: GPT2Config(**(SIZES | more)),
    "gpt_neox": lambda **more: GPTNeoXConfig(
        **(SIZES | {"intermediate_size": 36} | more),
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
    ),
    "llama": lambda **more: LlamaConfig(**(GROUPED | {"tie_word_embeddings": True} | more)),
    "qwen2": lambda **more: Qwen2Config(**(GROUPED | more)),
    "mistral": lambda **more: MistralConfig(**(GROUPED | {"sliding_window": None} | more)),
    "qwen3": lambda **more: Qwen3Config(**(GROUPED | {"head_dim": 10} | more)),
    "gemma3_text": lambda **more: Gemma3TextConfig(
        **(GROUPED | {"head_dim": 10, "query_pre_attn_scalar": 30, "sliding_window": 20} | more),
        layer_types=["sliding_attention", "full_attention"],
    ),
}
TOKEN: dict[str, Any] = {"threshold": "token", "attention": "kept", "steps": 8}
ALL_MAPS = {"spiking_maps": ["ffn", "qkv", "out", "head"]}
WINDOW = {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1}
ROTARY = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
VARIANTS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "rate": ("gpt2", {}, {"attention": "kept", "steps": 4}),
    "phase": ("gpt2", {}, {"attention": "kept", "steps": 10, "code": "phase"}),
    "qcfs": ("gpt2", {}, {"attention": "kept", "ffn": "qcfs", "steps": 8}),
    "ni-lif": ("gpt2", {}, {"attention": "kept", "ffn": "ni-lif", "steps": 16}),
    "ssa": ("gpt2", {}, {"attention": "ssa", "steps": 4}),
    "ssa-no-norm": ("gpt2", {}, {"attention": "ssa", "ssa_norm": "none", "steps": 4}),
    "ssa-only": ("gpt2", {}, {"attention": "ssa", "ffn": "kept", "attention_neuron": "if"}),
    "hard": ("gpt2", {}, {"attention": "cwssa", "steps": 4}),
    "top-3": ("gpt2", {}, {"attention": "cwssa", "wta": "top_k", "steps": 4}),
    "top-2-phase": (
        *("gpt2", {}),
        {"attention": "cwssa", "wta": "top_k", "winners": 2, "steps": 8, "code": "phase"},
    ),
    "grades": ("gpt2", {}, {"attention": "power-of-two", "steps": 4}),
    "llama-grades-phase": (
        *("llama", {"head_dim": 10}),
        {"attention": "power-of-two", "weight_digits": 3, "steps": 8, "code": "phase"},
    ),
    "relu": ("gpt2", {"activation_function": "relu"}, {"attention": "kept", "steps": 4}),
    "quick-gelu": ("gpt2", {"activation_function": "quick_gelu"}, {"steps": 4}),
    "by-layer": (
        *("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
        {"attention": "kept", "steps": 4},
    ),
    "neox": ("gpt_neox", {}, {"attention": "kept", "steps": 8}),
    "neox-sequential": ("gpt_neox", {"use_parallel_residual": False}, {"steps": 4}),
    "neox-untied": ("gpt_neox", {}, {"attention": "cwssa", "steps": 4}),
    "llama": ("llama", {}, {"attention": "kept", "steps": 8}),
    "llama-ssa": ("llama", {}, {"attention": "ssa", "steps": 4}),
    "llama-hard": ("llama", {"head_dim": 10}, {"attention": "cwssa", "steps": 4}),
    "llama-qcfs": ("llama", {"mlp_bias": True}, {"attention": "kept", "ffn": "qcfs", "steps": 8}),
    "qwen2": ("qwen2", {}, {"attention": "kept", "steps": 8}),
    "qwen2-top-3": (
        *("qwen2", {"num_key_value_heads": 1}),
        {"attention": "cwssa", "wta": "top_k", "steps": 4},
    ),
    "token-ffn": ("llama", {}, TOKEN),
    "token-all": ("llama", {}, TOKEN | ALL_MAPS),
    "token-shift": ("mistral", {}, TOKEN | ALL_MAPS | {"power_of_two_units": True}),
    "token-far": ("gpt2", {}, TOKEN | ALL_MAPS | {"token_reach": 1.5, "steps": 5}),
    "token-quiet": ("qwen2", {}, TOKEN | ALL_MAPS | {"steps": 7, "dead_zone": 0.3}),
    "token-parallel": ("gpt_neox", {}, TOKEN | ALL_MAPS),
    "token-out-and-head": ("llama", {}, TOKEN | {"ffn": "kept", "spiking_maps": ["out", "head"]}),
    "token-ssa": ("llama", {}, TOKEN | {"attention": "ssa", "steps": 6}),
    "token-grades": ("llama", {}, TOKEN | {"attention": "power-of-two", "steps": 6}),
    "token-hard": ("gpt2", {}, TOKEN | {"attention": "cwssa", "steps": 6}),
    "mistral-window": ("mistral", {"sliding_window": 20}, {"attention": "kept", "steps": 8}),
    "qwen2-window": ("qwen2", WINDOW | {"sliding_window": 70}, TOKEN | ALL_MAPS),
    "qwen2-dense-window": (
        *("qwen2", WINDOW),
        {"attention": "cwssa", "steps": 4, "allow_dense": True},
    ),
    "qwen3": ("qwen3", {}, {"attention": "kept", "steps": 8}),
    "qwen3-token": ("qwen3", {"attention_bias": True}, TOKEN | ALL_MAPS),
    "gemma3": ("gemma3_text", {}, {"attention": "kept", "steps": 8}),
    "gemma3-token": ("gemma3_text", {"sliding_window": 70}, TOKEN | ALL_MAPS),
    "gemma3-capped": (
        *("gemma3_text", {"final_logit_softcapping": 2.0, "rope_parameters": ROTARY}),
        TOKEN | ALL_MAPS | {"steps": 6, "power_of_two_units": True},
    ),
}


@pytest.fixture
def convert(tmp_path: Path, ids: Ids) -> Convert:
    """``convert("gpt2", {...}, {...})``: a random model of that config, converted so."""

    def make(
        kind: str, changes: dict[str, Any], choices: dict[str, Any]
    ) -> NeurTransformerForCausalLM:
        torch.manual_seed(7)
        dense: PreTrainedModel = AutoModelForCausalLM.from_config(CONFIGS[kind](**changes)).eval()
        with torch.no_grad():
            for name, parameter in dense.named_parameters():
                if "bias" in name:
                    parameter.normal_(0, 0.2)
                elif "norm" in name and kind in ("qwen3", "gemma3_text"):
                    parameter.add_(0.3 * torch.randn_like(parameter))
                elif parameter.dim() == 2:
                    parameter.mul_(8)
        choices = dict(choices)
        dead_zone = choices.pop("dead_zone", 0.0)
        plan = make_plan(dense, **choices)
        windows = torch.tensor([ids(seed, 20) for seed in range(4)])
        collect(dense, windows, tmp_path, lambda *_: None)
        spiking = NeurTransformerForCausalLM(plan.config)
        weights = {f"model.{name}": tensor for name, tensor in dense.state_dict().items()}
        for row in (row for row in plan.rows if row.converts and row.layer is not None):
            assert row.layer is not None
            sample = read_sample(tmp_path, row.layer)
            module = convert_module(dense, plan.config, row.layer, row.part, sample, Rule())
            path = f"model.{row.module}."
            weights = {key: tensor for key, tensor in weights.items() if not key.startswith(path)}
            weights |= {path + name: tensor for name, tensor in module.state_dict().items()}
        missing, unexpected = spiking.load_state_dict(weights, strict=False)
        assert not unexpected
        assert set(missing) <= {"model.lm_head.fire.dead_zone"}  # a head's weights are the source's
        for name, parameter in spiking.named_parameters():
            if name.endswith("dead_zone"):
                parameter.data.fill_(dead_zone)
        spiking.tie_weights()
        return spiking.eval()

    return make


def stated_by(neuron: Any, counts: torch.Tensor, as_counts: bool) -> np.ndarray:
    """What a pair's ``counts`` [1, B, (H,) T, K] say, [T, width], as the engine has it."""
    if not as_counts:
        value = neuron.value if counts.dim() == 4 else neuron.value.unsqueeze(1)
        counts = counts * torch.where(counts >= 0, value[0], value[-1])
    flat = counts[0, 0] if counts.dim() == 4 else counts[0, 0].transpose(0, 1).flatten(1)
    return flat.numpy()


@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS)
def test_what_neurons_say_and_logits_are_pytorchs(variant: str, convert: Convert, ids: Ids) -> None:
    """In float32 on both sides: means of three counts tie often, as float32 rounds them.

    Sums of reals before a neuron are rounded as the processor's matrix library orders them, which
    may put one of them over the edge of a step. Then one value flips, and what depends on it may;
    nothing does before that token.
    """
    model, tokens = convert(*VARIANTS[variant]), ids(11, 90)
    engine = Engine(pack(model, None, "fp32"), threads=1)
    computed = engine.feed_all(engine.sequence(), tokens)
    seen: list[tuple[Any, torch.Tensor]] = []
    with observe(model, lambda _, neuron, spikes: seen.append((neuron, spikes))):
        logits = model(torch.tensor([tokens])).logits[0].numpy()
    operations = engine.packed.description["operations"]
    pairs = [step for step in operations if step["op"] in ("pair", "encode")]
    assert len(pairs) == len(seen)
    flipped: list[np.ndarray] = []
    for step, (neuron, counts) in zip(pairs, seen, strict=True):
        expected = stated_by(neuron, counts, step.get("counts", True))
        assert expected.any()
        wrong = engine.values(step["out"]) != expected
        assert flipped or wrong.sum() <= 1, step["out"]
        if flipped or wrong.any():
            flipped.append(wrong)
    tokens_wrong = np.logical_or.reduce([wrong.any(1) for wrong in flipped] or [np.zeros(90, bool)])
    first = int(tokens_wrong.argmax()) if flipped else 90
    assert tokens_wrong.sum() <= 5
    assert not flipped or np.concatenate(flipped, axis=1).mean() < 0.01
    assert np.abs(computed - logits)[:first].max(initial=0) < 1e-4
    assert np.abs(computed - logits).max() < (0.02 if flipped else 1e-4)
    assert logits.std() > 0.1
    events = sum(int(counts.count_nonzero()) for _, counts in seen)
    assert abs(engine.counters()["events"] - events) <= (5 if flipped else 0)


@pytest.mark.parametrize(
    "variant",
    [
        *("rate", "qcfs", "ssa", "hard", "top-2-phase", "llama", "neox", "token-all", "token-far"),
        *("mistral-window", "qwen3-token", "gemma3", "gemma3-capped", "llama-grades-phase"),
    ],
)
def test_one_token_at_a_time_gives_the_bits_of_the_prompt(
    variant: str, convert: Convert, ids: Ids, assert_same_bits: Any
) -> None:
    tokens = ids(2, 150)
    weights = "int4" if variant in ("neox", "token-far", "qwen3-token") else "int8"
    packed = pack(convert(*VARIANTS[variant]), None, weights)
    assert_same_bits(packed, tokens)


@pytest.mark.parametrize("variant", ["token-all", "token-far", "neox", "gemma3-token"])
def test_int4_is_the_weights_that_its_groups_stand_for(
    variant: str, convert: Convert, ids: Ids
) -> None:
    """The head stays int8; of the other matrices each is read as the reals it stands for."""
    packed, tokens = pack(convert(*VARIANTS[variant]), None, "int4"), ids(6, 40)
    tensors = dict(packed.tensors)
    grouped = [name.removesuffix(".minimum") for name in tensors if name.endswith(".minimum")]
    widths = {row["name"]: row["width"] for row in packed.description["buffers"]}
    for step in packed.description["operations"]:
        if step["op"] == "linear" and step["weight"] in grouped:
            name = step["weight"]
            each = (tensors[name], tensors.pop(f"{name}.scale"), tensors.pop(f"{name}.minimum"))
            tensors[name] = grouped_reals(each, widths[step["input"]])
    assert len(grouped) == (8 if variant in ("neox", "token-far") else 10)
    plain = replace(packed, tensors=tensors)
    computed, expected = (
        engine.feed_all(engine.sequence(), tokens)
        for engine in (Engine(packed, threads=1), Engine(plain, threads=1))
    )
    # A sum in another order may flip one count, and what depends on it.
    close = np.abs(computed - expected).max(1) < 1e-4 * np.abs(expected).max()
    assert close.mean() > 0.8
    assert np.abs(computed - expected).max() < 0.05 * np.abs(expected).max()


@torch.no_grad()
@pytest.mark.parametrize(
    "variant", ["rate", "ssa", "llama-hard", pytest.param("gemma3", marks=pytest.mark.slow)]
)
def test_greedy_text_of_512_tokens_is_pytorchs(variant: str, convert: Convert, ids: Ids) -> None:
    model, prompt = convert(*VARIANTS[variant]), ids(4, 8)
    engine = Engine(pack(model, None, "fp32"), threads=1)
    written = model.generate(torch.tensor([prompt]), max_new_tokens=512, do_sample=False)
    assert list(engine.generate(prompt, 512)) == written[0, 8:].tolist()


@torch.no_grad()
def test_caches_are_as_wide_as_what_they_hold(convert: Convert, ids: Ids) -> None:
    """Counts take a byte, or two; reals four, or two in fp16; SSA's past does not grow."""
    sizes = {}
    for variant in ("rate", "hard", "top-2-phase", "ssa"):
        packed = pack(convert(*VARIANTS[variant]), None, "int8")
        for cache in ("fp32", "auto"):
            engine = Engine(packed, threads=1, cache=cache)
            text = engine.sequence()
            engine.feed(text, ids(5, 128))
            size = text.bytes / (2 * 128 * 2 * 24)  # layers, tokens, keys and values, width
            sizes.setdefault(variant, []).append(size)
    assert sizes == {
        "rate": [4.0, 2.0],
        "hard": [1.0, 1.0],
        "top-2-phase": [2.0, 2.0],
        "ssa": [pytest.approx(6 * 8 / 256)] * 2,
    }


def test_a_cache_in_fp16_changes_logits_by_its_rounding(convert: Convert, ids: Ids) -> None:
    packed, tokens = pack(convert(*VARIANTS["token-all"]), None, "fp32"), ids(3, 100)
    exact, half = (Engine(packed, threads=1, cache=cache) for cache in ("auto", "fp16"))
    assert (exact.cache, half.cache) == ("fp32", "fp16")
    wanted, computed = (one.feed_all(one.sequence(), tokens) for one in (exact, half))
    # A rounded key flips counts further on: what differs is a count's size, not a half's.
    assert 0 < np.abs(computed - wanted).mean() < 0.01 * np.abs(wanted).max()
    with pytest.raises(UsageError, match="cache is 'fp8'; it must be one of auto, fp32, fp16"):
        Engine(packed, cache="fp8")


def test_a_cache_keeps_the_pages_of_its_window(convert: Convert, ids: Ids) -> None:
    """Of 300 tokens in pages of 64, the next one sees those from 281 on: one page of five."""
    packed, tokens = pack(convert(*VARIANTS["gemma3"]), None, "fp32"), ids(5, 330)
    engine = Engine(packed, threads=1)
    text = engine.sequence()
    engine.feed(text, tokens[:300])
    page = 64 * 2 * (2 * 10) * 4  # tokens, keys and values, width, bytes
    assert text.bytes == (1 + 5) * page
    fork = engine.fork(text)
    expected = engine.feed_all(text, tokens[300:])
    assert (engine.feed_all(fork, tokens[300:]) == expected).all()
    assert (engine.feed_all(engine.sequence(), tokens)[300:] == expected).all()
    assert text.bytes == (2 + 6) * page  # the window of token 330 begins in the page before


@torch.no_grad()
def test_keys_beyond_a_window_change_nothing(convert: Convert, ids: Ids) -> None:
    """Two layers with a window of 20 look back 38 tokens."""
    model, end = convert("mistral", {"sliding_window": 20}, TOKEN | ALL_MAPS), ids(1, 39)
    engine = Engine(pack(model, None, "fp32"), threads=1)
    first, second = (engine.feed(engine.sequence(), ids(seed, 40) + end) for seed in (2, 3))
    assert (first == second).all()
    third = engine.feed(engine.sequence(), [*ids(2, 40), (end[0] + 1) % 61, *end[1:]])
    assert (third != first).any()


def test_a_description_from_before_windows_runs_as_before(convert: Convert, ids: Ids) -> None:
    packed, tokens = pack(convert(*VARIANTS["llama"]), None, "int8"), ids(1, 20)
    expected = Engine(packed, threads=1)
    for operation in packed.description["operations"]:
        assert operation.pop("window", 0) == 0
    older = Engine(packed, threads=1)
    assert (
        older.feed(older.sequence(), tokens) == expected.feed(expected.sequence(), tokens)
    ).all()


def test_what_the_engine_lacks_is_named(convert: Convert) -> None:
    llama = {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}
    kept = {"attention": "kept", "steps": 2}
    for kind, changes, choices, message in (
        ("gpt2", {}, {"unrolled": True, "steps": 2}, "unrolled=True"),
        ("gpt2", {}, kept | {"ffn": "qcfs", "schedule": "pipelined"}, "schedule='pipelined'"),
        ("gpt2", {"activation_function": "mish"}, kept, "activation 'mish'"),
        ("llama", llama, kept, "rotary positions of type 'dynamic'"),
        ("gemma3_text", {"attn_logit_softcapping": 9.0}, kept, "attn_logit_softcapping=9.0"),
        ("gemma3_text", {"use_bidirectional_attention": True}, kept, "_bidirectional_attention"),
    ):
        with pytest.raises(ConfigError, match="engine") as caught:
            pack(convert(kind, changes, choices), None, "fp32")
        assert message in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("qwen2", WINDOW, "1.attention: sliding_attention sees a window of the keys only"),
        ("qwen3", {}, "0.attention: q and k have a norm per head"),
    ],
)
def test_spiking_attention_that_a_plan_would_refuse_is_not_exported(
    kind: str, changes: dict[str, Any], message: str
) -> None:
    described = CONFIGS[kind](**changes).to_dict()
    config = NeurTransformerConfig(source=described, attention="cwssa", steps=4)
    with pytest.raises(ConfigError, match=f"the engine does not run this {kind}: {message}"):
        pack(NeurTransformerForCausalLM(config), None, "fp32")
