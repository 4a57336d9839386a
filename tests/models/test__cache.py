"""Which caches are taken, which are refused by name, and what a static one shows of its rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    Cache,
    DynamicCache,
    EncoderDecoderCache,
    Qwen2Config,
    StaticCache,
)
from transformers.cache_utils import (
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionLayer,
    QuantizedLayer,
    StaticSlidingWindowLayer,
)

from spikeformers.errors import ConfigError
from spikeformers.models import NeurTransformerConfig, NeurTransformerForCausalLM
from spikeformers.models._cache import FixedRows, RunningState, admit, append_rows

Make = Callable[..., Any]
CPU = torch.device("cpu")
SHIFT = {"token_shift": True}
STATE = {"attention": "a2os2a", "attention_order": "state", "position": "learned"}


class Rounding(QuantizedLayer):
    """What a quantised layer of Transformers does, without the library that it asks for."""

    def _quantize(self, tensor: torch.Tensor, axis: int) -> torch.Tensor:
        return (tensor * 2).round()

    def _dequantize(self, q_tensor: torch.Tensor) -> torch.Tensor:
        return q_tensor / 2


class Forgetful(DynamicCache):
    """A cache whose class returns what it likes."""

    def update(self, k: torch.Tensor, v: torch.Tensor, layer_idx: int, *_: Any) -> Any:
        k, v = super().update(k, v, layer_idx)
        return k[..., -4:, :], v[..., -4:, :]


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tokens(count: int, batch: int = 1) -> torch.Tensor:
    return torch.randint(0, 23, (batch, count), generator=torch.Generator().manual_seed(4))


def offloading() -> Cache:
    """As one that was made beside a CUDA device; making it here fails."""
    cache = DynamicCache()
    cache.offloading = True
    return cache


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "quantised": (lambda: Cache([Rounding(), Rounding()]), "Rounding is not taken.*DynamicCache"),
    "made quantised": (lambda: Cache(layer_class_to_replicate=Rounding), "Rounding is not taken"),
    "linear": (lambda: Cache([LinearAttentionLayer()] * 2), "LinearAttentionLayer is not taken"),
    "of its own": (Forgetful, "Forgetful is not taken.*its class changes.*DynamicCache"),
    "of an encoder": (
        lambda: EncoderDecoderCache(DynamicCache(), DynamicCache()),
        "EncoderDecoderCache is not taken",
    ),
    "offloaded": (offloading, "DynamicCache with offloading is not taken.*CUDA.*'cpu'"),
    "tuples": (lambda: ((rows(1, 2, 3, 8),) * 2,) * 2, "tuple is not taken.*Transformers 5"),
    "too few layers": (lambda: Cache([DynamicLayer()]), "Cache is not taken.*1 layers.*model 2"),
}


@torch.no_grad()
@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("choices", [{}, SHIFT, STATE], ids=["hard", "shift", "state"])
def test_a_cache_that_would_change_the_tokens_is_refused_by_name(
    make_model: Make, kind: str, choices: dict[str, Any]
) -> None:
    made, words = REFUSED[kind]
    with pytest.raises(ConfigError, match=words):
        make_model("wd", **choices)(tokens(3), past_key_values=made(), use_cache=True)


@torch.no_grad()
@pytest.mark.parametrize("choices", [{}, SHIFT], ids=["hard", "shift"])
@pytest.mark.parametrize("kind", [DynamicSlidingWindowLayer, StaticSlidingWindowLayer])
def test_a_sliding_cache_serves_until_its_window_is_full(
    make_model: Make, kind: Any, choices: dict[str, Any]
) -> None:
    model, text = make_model("wd", **choices), tokens(9)
    sizes = {"sliding_window": 8} | ({"max_cache_len": 20} if "Static" in kind.__name__ else {})
    cache = Cache([kind(**sizes) for _ in range(2)])
    parts = [model(text[:, a:b], past_key_values=cache).logits for a, b in ((0, 5), (5, 7), (7, 8))]
    whole = model(text[:, :8], use_cache=False).logits
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=1e-5)
    with pytest.raises(ConfigError, match=r"keeps 8 positions, and holds 8 while 1 more"):
        model(text[:, 8:], past_key_values=cache)


@torch.no_grad()
def test_the_window_of_a_source_is_its_own() -> None:
    """A dense block with a sliding window beside a spiking block, behind the window."""
    source = Qwen2Config(
        vocab_size=23, hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=24, max_position_embeddings=32,
        use_sliding_window=True, sliding_window=4, max_window_layers=1,
    )  # fmt: skip
    torch.manual_seed(3)
    model: Any = NeurTransformerForCausalLM(
        NeurTransformerConfig(source=source.to_dict(), steps=4, dense=["1.attention"])
    ).eval()
    for parameter in model.parameters():
        parameter.uniform_(-0.5, 0.5)
    for name, parameter in model.named_parameters():
        if "threshold" in name:
            parameter.fill_(0.5)
    text = tokens(11)
    whole = model(text, use_cache=False).logits
    for cache in (DynamicCache(config=source), DynamicCache()):
        parts = [
            model(text[:, a:b], past_key_values=cache).logits for a, b in ((0, 6), (6, 7), (7, 11))
        ]
        torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-4, rtol=1e-4)
    with pytest.raises(ConfigError, match="StaticSlidingWindowLayer is not taken"):
        model(text, past_key_values=StaticCache(config=source, max_cache_len=30))


@torch.no_grad()
def test_a_static_cache_that_is_too_short_says_so(make_model: Make) -> None:
    model = make_model("wd")
    cache = StaticCache(config=model.config, max_cache_len=6)
    model(tokens(5), past_key_values=cache)
    with pytest.raises(ConfigError, match=r"StaticCache keeps 6 positions.*holds 5.*2.*max_cache"):
        model(tokens(2), past_key_values=cache)
    with pytest.raises(ConfigError, match=r"static cache of 3 positions is full"):
        FixedRows(3).update(rows(1, 2, 4, 8), rows(1, 2, 4, 8))


@torch.no_grad()
@pytest.mark.parametrize("choices", [{}, SHIFT, STATE], ids=["hard", "shift", "state"])
def test_a_cache_of_another_text_or_model_is_refused(
    make_model: Make, choices: dict[str, Any]
) -> None:
    model = make_model("wd", **choices)
    filled = model(tokens(4, batch=2), use_cache=True).past_key_values
    wider = make_model("wd", hidden_size=32)(tokens(4), use_cache=True).past_key_values
    longer = Cache([DynamicLayer(), DynamicLayer()])
    longer.layers[0].update(rows(1, 2, 3, 8), rows(1, 2, 3, 8))
    with pytest.raises(ConfigError, match="different numbers of positions"):
        model(tokens(1), past_key_values=longer)
    held = r"heads, width \[2, 2, 8\]" if not choices else r"a state of steps, batch \[1, 2"
    with pytest.raises(ConfigError, match=held):
        model(tokens(1), past_key_values=filled)
    with pytest.raises(ConfigError, match="empty cache"):
        model(tokens(1), past_key_values=wider)


@torch.no_grad()
def test_a_shift_wants_the_last_spikes_of_the_same_tokens(make_model: Make) -> None:
    model = make_model("wd", **SHIFT)
    cache = model(tokens(4), use_cache=True).past_key_values
    bare = DynamicCache([(layer.keys, layer.values) for layer in cache.layers[:2]])
    with pytest.raises(ConfigError, match="holds 4 tokens without the spikes of the last"):
        model(tokens(1), past_key_values=bare)
    for layer in cache.layers[:2]:
        layer.crop(-1)
    with pytest.raises(ConfigError, match="holds 3 tokens without the spikes of the last"):
        model(tokens(1), past_key_values=cache)


@torch.no_grad()
def test_a_cache_that_is_given_is_used_or_refused(make_model: Make) -> None:
    """As in Transformers ``use_cache=False`` does not mean that what is given is forgotten."""
    model, text = make_model("wd"), tokens(6)
    expected = model(text, use_cache=False).logits[:, 4:]
    cache = model(text[:, :4], use_cache=True).past_key_values
    got = model(text[:, 4:], past_key_values=cache, use_cache=False).logits
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(ConfigError, match=r"call eval\(\)"):
        model.train()(text[:, 4:], past_key_values=cache)
    assert model(text, past_key_values=DynamicCache()).past_key_values is None


@torch.no_grad()
def test_rows_made_ahead_of_time_take_the_width_that_comes(make_model: Make) -> None:
    model, text = make_model("wd", neuron="lif", steps=3), tokens(4)
    cache = StaticCache(config=model.config, max_cache_len=9)
    cache.early_initialization(1, 4, 5, torch.float32, CPU)
    got = model(text, past_key_values=cache).logits
    assert torch.equal(got, model(text, past_key_values=DynamicCache()).logits)
    assert cache.layers[0].keys.shape == (1, 2, 9, 24)


def test_fixed_rows_show_what_was_seen() -> None:
    cache = StaticCache(config=Qwen2Config(num_hidden_layers=1), max_cache_len=7)
    first, second = rows(3, 2, 4, 5), rows(3, 2, 2, 5, seed=1)
    cache.update(first, first + 1, 0)  # by Transformers' own layer
    held = cache.layers[0].keys
    assert admit(cache, 1, 2, CPU) == 4
    [layer] = cache.layers
    assert isinstance(layer, FixedRows)
    assert layer.keys is held
    k, v = append_rows(cache, second, second + 1, 0)
    assert torch.equal(k, torch.cat((first, second), 2))
    assert torch.equal(v, k + 1)
    assert (layer.get_seq_length(), layer.get_max_length()) == (6, 7)
    assert cache.get_mask_sizes(1, 0) == (7, 0)
    assert not cache.is_compileable

    cache.crop(-3)
    cache.reorder_cache(torch.tensor([2, 0, 1]))
    cache.batch_select_indices(torch.tensor([0, 1]))
    cache.batch_repeat_interleave(2)
    again = append_rows(cache, rows(4, 2, 1, 5, seed=2), rows(4, 2, 1, 5), 0)[0]
    assert torch.equal(again[:, :, :3], first[[2, 2, 0, 0], :, :3])
    with pytest.raises(ValueError, match="minus the number"):
        cache.crop(2)
    cache.reset()
    assert admit(cache, 1, 7, CPU) == 0
    assert torch.equal(append_rows(cache, first, first, 0)[0], first)


def test_a_layer_that_returns_other_rows_is_refused() -> None:
    """Where nobody asked first: a module of a converted model alone with Transformers' cache."""
    cache = StaticCache(config=Qwen2Config(num_hidden_layers=1), max_cache_len=7)
    with pytest.raises(ConfigError, match=r"StaticLayer is not taken.*7 rows where 0 were.*2 came"):
        append_rows(cache, rows(1, 2, 2, 5), rows(1, 2, 2, 5), 0)


def test_a_state_keeps_no_rows_and_cannot_step_back() -> None:
    state = RunningState()
    state.put(rows(2, 1, 2, 3, 3), 4)
    state.crop(0)
    assert state.get_seq_length() == 4
    with pytest.raises(ConfigError, match="no token can be taken again"):
        state.crop(-1)
    with pytest.raises(ConfigError, match=r"RunningState is not taken.*keeps a state"):
        Cache([state]).update(rows(1, 2, 1, 5), rows(1, 2, 1, 5), 0)
