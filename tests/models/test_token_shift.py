"""Models with a token shift: caches, padding, causality, binary expansion, what is counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from spikeformers.energy import audit, trace
from spikeformers.errors import ConfigError

Make = Callable[..., Any]
Choices = dict[str, Any]
KINDS: dict[str, Choices] = {
    "hard": {"levels": 4},
    "lif, 3 steps": {"neuron": "lif", "steps": 3, "threshold": 0.5},
    "ssa": {"attention": "ssa", "position": "learned", "levels": 4},
    "a2os2a state": {"attention": "a2os2a", "attention_order": "state", "position": "learned"},
}


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest, make_model: Make) -> Any:
    return make_model("wd", dtype=torch.float64, token_shift=True, **KINDS[request.param])


def ids(seed: int, batch: int, tokens: int) -> Tensor:
    return torch.randint(0, 23, (batch, tokens), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_cached_logits_equal_the_whole_forward(model: Any) -> None:
    tokens = ids(1, 2, 12)
    whole = model(tokens, use_cache=False).logits
    cache, parts = DynamicCache(), []
    for start, stop in [(0, 5), (5, 6), (6, 7), (7, 10), (10, 12)]:
        out = model(tokens[:, start:stop], past_key_values=cache, use_cache=True)
        parts.append(out.logits)
        assert cache.get_seq_length() == stop
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-9)


@torch.no_grad()
def test_left_padding_and_neighbours_never_matter(model: Any) -> None:
    tokens, mask = ids(2, 2, 9), torch.ones(2, 9, dtype=torch.long)
    mask[1, :4] = 0
    alone = model(tokens[1:, 4:]).logits[0]
    torch.testing.assert_close(
        model(tokens, attention_mask=mask).logits[1, 4:], alone, rtol=0, atol=1e-9
    )
    for first in (5, 4):  # so that the cache ends in a token, and in padding
        out = model(tokens[:, :first], attention_mask=mask[:, :first], use_cache=True)
        rest = model(
            tokens[:, first:], attention_mask=mask, past_key_values=out.past_key_values
        ).logits
        torch.testing.assert_close(rest[1], alone[first - 4 :], rtol=0, atol=1e-9)


@torch.no_grad()
def test_the_token_before_matters_and_the_next_does_not(model: Any, make_model: Make) -> None:
    tokens = ids(3, 1, 8)
    other = tokens.clone()
    other[0, 4] = (other[0, 4] + 1) % 23
    apart = (model(tokens).logits - model(other).logits).abs().amax((0, 2))
    assert (apart[:4] == 0).all()
    assert apart[4] > 0
    plain = make_model("wd", dtype=torch.float64, levels=4)
    shifted = make_model("wd", dtype=torch.float64, levels=4, token_shift=True)
    assert plain.state_dict().keys() == shifted.state_dict().keys()  # it has no weights
    torch.testing.assert_close(
        plain(tokens[:, :1]).logits.shape, shifted(tokens[:, :1]).logits.shape
    )
    assert not torch.equal(plain(tokens).logits, shifted(tokens).logits)


@torch.no_grad()
def test_binary_sub_steps_give_the_same_logits(make_model: Make) -> None:
    model = make_model("wd", dtype=torch.float64, token_shift=True, levels=4, spiking_head=True)
    tokens = ids(4, 2, 10)
    whole = model(tokens).logits
    binary = model.expand_to_binary()
    torch.testing.assert_close(binary(tokens).logits, whole, rtol=0, atol=1e-9)
    out = binary(tokens[:, :4], use_cache=True)
    rest = binary(tokens[:, 4:], past_key_values=out.past_key_values, use_cache=True).logits
    torch.testing.assert_close(rest, whole[:, 4:], rtol=0, atol=1e-9)


def test_beams_are_those_of_a_search_without_cache(model: Any) -> None:
    given = {"max_new_tokens": 5, "do_sample": False, "num_beams": 3, "pad_token_id": 0}
    prompt = ids(5, 2, 4)
    assert torch.equal(
        model.generate(prompt, use_cache=True, **given),
        model.generate(prompt, use_cache=False, **given),
    )


def test_products_still_read_spikes(make_model: Make) -> None:
    """A feature that moved is counted where it is read: tokens but the last, half of the width."""
    model = make_model("wd", token_shift=True, levels=4)
    tokens = ids(6, 2, 9)
    assert audit(model, [tokens]).failures("addition-only") == []
    traced = trace(model, tokens)
    for name, product in traced.products.items():
        if name.endswith(("query", "up")):
            fired: list[Tensor] = []
            module = model.get_submodule(name)
            handle = module.register_forward_pre_hook(lambda _, args: fired.append(args[0]))  # noqa: B023
            with torch.no_grad():
                model(tokens)
            handle.remove()
            assert product.spiking
            assert product.left.nonzero == int((fired[0] != 0).sum())


def test_a_masked_model_refuses_it(make_model: Make) -> None:
    with pytest.raises(ConfigError, match="it is for causal models"):
        make_model("we", token_shift=True)
