"""``generate`` with every cache that Transformers makes: the dynamic one's tokens, or a refusal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    DynamicCache,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedModel,
    Qwen2Config,
    StaticCache,
)
from transformers.masking_utils import create_causal_mask

from spikeformers.errors import ConfigError
from spikeformers.models import (
    BiSpikCLMConfig,
    NeurTransformerConfig,
    NeurTransformerForCausalLM,
    build_model,
)

Make = Callable[..., Any]
SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "eos_token_id": None,
    "bos_token_id": None,
    "pad_token_id": None,
}
GROUPED = SIZES | {"num_key_value_heads": 2, "intermediate_size": 24}
SOURCES: dict[str, Any] = {
    "gpt2": GPT2Config(**SIZES, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0),
    "gpt_neox": GPTNeoXConfig(**SIZES, intermediate_size=24),
    "llama": LlamaConfig(**GROUPED),
    "qwen2": Qwen2Config(**GROUPED),
    "qwen2 with a window": Qwen2Config(
        **GROUPED, use_sliding_window=True, sliding_window=4, max_window_layers=1
    ),
}
WD: dict[str, dict[str, Any]] = {
    "hard": {"wta": "hard"},
    "hard, relative": {"wta": "hard", "position": "relative"},
    "top-3, 3 steps": {"wta": "top_k", "neuron": "lif", "steps": 3, "threshold": 0.5},
    "sparsemax": {"wta": "sparsemax"},
    "softmax, learned": {"attention": "softmax", "position": "learned"},
    "power-of-two": {"attention": "power-of-two"},
    "ssa": {"attention": "ssa", "position": "learned"},
    "a2os2a": {"attention": "a2os2a", "position": "learned"},
    "a2os2a state": {"attention": "a2os2a", "attention_order": "state", "position": "learned"},
    "shift": {"wta": "hard", "token_shift": True},
    "shift, a2os2a state": {
        "attention": "a2os2a",
        "attention_order": "state",
        "position": "learned",
        "token_shift": True,
    },
}
BISPIKCLM: dict[str, dict[str, Any]] = {
    "bispikclm": {"steps": 2, "position": "learned"},
    "bispikclm, or": {"steps": 3, "position": "both", "residual": "or"},
}
CONVERTED = {
    f"{source}, {attention}": (source, attention)
    for source in SOURCES
    for attention in ("kept", "ssa", "cwssa", "power-of-two")
}
MODELS = (*WD, *BISPIKCLM, *CONVERTED)
EACH_CACHE = (
    *("hard", "top-3, 3 steps", "shift, a2os2a state", "bispikclm, or", "gpt_neox, ssa"),
    *("llama, kept", "qwen2 with a window, cwssa"),
)
"""One of each way to keep what was."""


def _stir(model: Any, spread: float) -> PreTrainedModel:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "threshold" in name:
                parameter.uniform_(0.4, 0.6)
            elif parameter.dim() == 2:
                parameter.normal_(0, spread)
    made: PreTrainedModel = model.eval()
    return made


@pytest.fixture(scope="session")
def make(make_model: Make) -> Make:
    """``make("llama, ssa")``: random weights, the same at each call."""

    def build(name: str) -> Any:
        torch.manual_seed(5)
        if name in WD:
            choices = {"max_position_embeddings": 64, "vocab_size": 50} | WD[name]
            return make_model("wd", **choices)
        if name in BISPIKCLM:
            shape = SIZES | {"intermediate_size": 32} | BISPIKCLM[name]
            return _stir(build_model(BiSpikCLMConfig(**shape, decay=0.7, threshold=0.5)), 0.5)
        source, attention = CONVERTED[name]
        described = SOURCES[source].to_dict()
        dense = ["1.attention"] if "window" in source else None
        config = NeurTransformerConfig(source=described, steps=4, attention=attention, dense=dense)
        return _stir(NeurTransformerForCausalLM(config), 0.5)

    return build


PROMPT = torch.randint(0, 50, (2, 7), generator=torch.Generator().manual_seed(1))
PADDED = torch.tensor([[0, 0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]])
MANY: dict[str, Any] = {
    "max_new_tokens": 9,
    "do_sample": False,
    "pad_token_id": 0,
    "return_dict_in_generate": True,
    "output_logits": True,
}


def _compare(model: Any, cached: dict[str, Any], **given: Any) -> None:
    """The tokens, and the very logits, of a dynamic cache."""
    expected = model.generate(PROMPT, **given)
    got = model.generate(PROMPT, **given, **cached)
    assert torch.equal(got.sequences, expected.sequences)
    for a, b in zip(got.logits, expected.logits, strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(expected.logits[0], expected.logits[-1])


@pytest.mark.parametrize("name", MODELS)
def test_a_static_cache_gives_the_tokens_of_a_dynamic_one(make: Make, name: str) -> None:
    _compare(make(name), {"cache_implementation": "static"}, **MANY)


@pytest.mark.parametrize("name", EACH_CACHE)
def test_a_static_cache_longer_than_needed_and_a_padded_batch(make: Make, name: str) -> None:
    model = make(name)
    _compare(
        model,
        {"cache_implementation": "static", "max_cache_len": 41},
        **MANY,
        attention_mask=PADDED,
    )


@pytest.mark.parametrize("name", EACH_CACHE)
def test_a_static_cache_under_beams_and_a_prompt_in_chunks(make: Make, name: str) -> None:
    model = make(name)
    given = MANY | {"num_beams": 3, "max_new_tokens": 5, "prefill_chunk_size": 3}
    _compare(model, {"cache_implementation": "static"}, **given, attention_mask=PADDED)


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_a_cache_of_ones_own_goes_on_where_it_was(make: Make, name: str) -> None:
    """Given by hand, without a mask or with what a static cache brings, and filled in parts."""
    model = make(name)
    tokens = torch.cat((PROMPT, PROMPT.flip(0)), 1)
    given = {
        "dynamic": DynamicCache(),
        "static": StaticCache(config=model.config, max_cache_len=23),
    }
    logits = {}
    for kind, cache in given.items():
        parts = [
            model(tokens[:, a:b], past_key_values=cache, use_cache=True).logits
            for a, b in ((0, 5), (5, 6), (6, 11), (11, 14))
        ]
        logits[kind] = torch.cat(parts, 1)
        assert cache.get_seq_length() == 14
    assert torch.equal(logits["static"], logits["dynamic"])
    whole = model(tokens, use_cache=False).logits
    torch.testing.assert_close(logits["static"], whole, atol=1e-3, rtol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in CONVERTED if "window" not in name])
def test_a_converted_model_cuts_the_mask_that_was_made_for_a_static_cache(
    make: Make, name: str
) -> None:
    model = make(name)
    positions = (PADDED.cumsum(-1) - 1).clamp_min(0)
    whole = model(PROMPT, attention_mask=PADDED, position_ids=positions).logits
    cache = StaticCache(config=model.config, max_cache_len=12)
    for start, stop in ((0, 4), (4, 7)):
        new = PROMPT[:, start:stop]
        mask = create_causal_mask(
            model.model.config, torch.zeros(2, stop - start, 1), PADDED[:, :stop], cache
        )
        out = model(
            new,
            attention_mask=mask,
            position_ids=positions[:, start:stop],
            past_key_values=cache,
        )
    torch.testing.assert_close(out.logits, whole[:, 4:], atol=1e-3, rtol=1e-3)
    with pytest.raises(ConfigError, match="3 columns, and there are 10 positions"):
        model(PROMPT[:, :3], attention_mask=torch.ones(2, 3), past_key_values=cache)


@pytest.mark.parametrize("name", ["hard", "bispikclm", "llama, cwssa", "llama, kept"])
def test_a_lookup_in_the_prompt_gives_the_same_tokens(make: Make, name: str) -> None:
    model = make(name)
    prompt = PROMPT[:1].repeat(1, 2)
    greedy = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    expected = model.generate(prompt, **greedy)
    got = model.generate(prompt, prompt_lookup_num_tokens=3, **greedy)
    assert torch.equal(got, expected)


@pytest.mark.parametrize("name", ["hard", "a2os2a state", "shift", "llama, ssa", "gpt2, kept"])
@pytest.mark.parametrize(
    ("cached", "words"),
    [
        ({"cache_implementation": "quantized"}, "'quantized'.*rounds keys and values.*DynamicC"),
        ({"cache_implementation": "offloaded"}, "'offloaded'.*CUDA.*DynamicCache"),
        ({"cache_implementation": "offloaded_static"}, "'offloaded_static'.*CUDA.*DynamicCache"),
        ({"cache_implementation": "paged"}, "a paged cache.*softmax.*batch of prompts"),
        ({"past_key_values": ((1, 2),)}, "tuple.*not a Cache.*DynamicCache"),
    ],
)
def test_other_caches_are_refused_by_name(
    make: Make, name: str, cached: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        make(name).generate(PROMPT, max_new_tokens=3, pad_token_id=0, **cached)


def test_an_assistant_cannot_be_used_where_nothing_steps_back(make: Make) -> None:
    model, prompt = make("hard"), PROMPT[:1]
    lookup = {"max_new_tokens": 3, "prompt_lookup_num_tokens": 2, "pad_token_id": 0}
    with pytest.raises(ConfigError, match=r"'static'.*assisted generation.*DynamicCache"):
        model.generate(prompt, cache_implementation="static", **lookup)
    cache = StaticCache(config=model.config, max_cache_len=30)
    with pytest.raises(ConfigError, match=r"StaticCache.*assisted generation.*DynamicCache"):
        model.generate(prompt, past_key_values=cache, **lookup)
    for name in ("shift", "a2os2a state"):
        with pytest.raises(ConfigError, match=r"keep a state.*without an assistant"):
            make(name).generate(prompt, **lookup)


@pytest.mark.parametrize("name", ["hard", "bispikclm, or", "llama, ssa"])
def test_a_backbone_is_not_trained_without_its_model(make: Make, name: str) -> None:
    model = make(name).train()
    ids = torch.arange(6)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    with pytest.raises(ConfigError, match="called on its own in training"):
        model.base_model(input_ids=ids)
    with torch.no_grad():
        model.base_model(input_ids=ids)
    model.eval().base_model(input_ids=ids)
