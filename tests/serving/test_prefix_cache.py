"""The tree of blocks: what it finds, what it holds, what it drops."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import MistralConfig

from spikeformers.engine import Engine
from spikeformers.export import pack
from spikeformers.models import NeurTransformerConfig, NeurTransformerForCausalLM
from spikeformers.serving.prefix_cache import BLOCK, PrefixCache

from .conftest import make_model

PLENTY = 1 << 30


def read_into(cache: PrefixCache, engine: Engine, tokens: Sequence[int]) -> int:
    """Read tokens as the scheduler does; returns how many came from the cache."""
    sequence = cache.begin(tokens)
    known = sequence.tokens
    for start in range(known, len(tokens), BLOCK):
        stop = min(len(tokens), start + BLOCK)
        logits = engine.feed(sequence, tokens[start:stop])
        cache.keep(tokens[:stop], sequence)
    assert np.array_equal(logits, engine.feed(engine.sequence(), tokens))
    return known


def block(number: int) -> list[int]:
    return np.random.default_rng(number).integers(0, 256, BLOCK).tolist()


def test_blocks_are_found_again_but_never_the_last_token(engine: Engine) -> None:
    cache = PrefixCache(engine, PLENTY)
    text = block(0) + block(1)
    assert read_into(cache, engine, text) == 0
    assert read_into(cache, engine, text) == BLOCK  # the last token's logits are needed
    assert read_into(cache, engine, [*text, 1]) == 2 * BLOCK
    assert read_into(cache, engine, block(0) + block(2)) == BLOCK
    assert read_into(cache, engine, block(2) + block(1)) == 0
    assert read_into(cache, engine, text[:-1]) == BLOCK
    assert read_into(cache, engine, text[: BLOCK - 1]) == 0


@pytest.mark.parametrize(
    "overrides",
    [{"attention": "ssa"}, {"token_shift": True}, {"attention": "softmax"}],
    ids=str,
)
def test_whatever_a_model_remembers_is_kept(overrides: dict[str, Any], tmp_path: Path) -> None:
    """A sum over the past, the spikes of the last token: what cannot be cut off a longer text."""
    engine = Engine(pack(*make_model(tmp_path, **overrides), "int8"), threads=1)
    cache = PrefixCache(engine, PLENTY)
    for ending in range(3):
        known = read_into(cache, engine, block(0) + block(1) + block(ending)[:9])
        assert known == (2 * BLOCK if ending else 0)


def test_parts_of_a_block_are_not_kept(engine: Engine) -> None:
    cache = PrefixCache(engine, PLENTY)
    sequence = engine.sequence()
    engine.feed(sequence, block(0)[:-1])
    cache.keep(block(0)[:-1], sequence)
    assert cache.bytes == 0


def test_the_size_counts_shared_pages_once(engine: Engine) -> None:
    cache = PrefixCache(engine, PLENTY)
    text = [token for number in range(4) for token in block(number)]
    read_into(cache, engine, text)
    whole = engine.sequence()
    engine.feed(whole, text)
    fixed = engine.sequence().bytes + 4096
    assert cache.bytes == whole.bytes - engine.sequence().bytes + 4 * fixed


def test_pages_that_a_window_forgets_are_still_held_above() -> None:
    torch.manual_seed(0)
    source = MistralConfig(
        vocab_size=256, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, intermediate_size=24, sliding_window=70,
    )  # fmt: skip
    config = NeurTransformerConfig(source=source.to_dict(), attention="kept", steps=4)
    engine = Engine(pack(NeurTransformerForCausalLM(config).eval(), None, "int8"), threads=1)
    cache = PrefixCache(engine, PLENTY)
    text = [token for number in range(5) for token in block(number)]
    read_into(cache, engine, text)
    assert read_into(cache, engine, [*text, 1]) == 5 * BLOCK
    page = 2 * BLOCK * 2 * 8 * 2  # layers, tokens, keys and values, width, bytes of a half
    assert nodes_of(cache)[-1].sequence.bytes == 2 * page
    assert cache.bytes == 5 * (page + 4096)


def test_what_was_used_longest_ago_goes_first(engine: Engine) -> None:
    one = PrefixCache(engine, PLENTY)
    read_into(one, engine, [*block(0), 1])
    cache = PrefixCache(engine, 2 * one.bytes)
    for number in (0, 1):
        read_into(cache, engine, [*block(number), 1])
    assert read_into(cache, engine, [*block(0), 2]) == BLOCK
    read_into(cache, engine, [*block(2), 1])  # drops 1, not 0
    assert read_into(cache, engine, [*block(0), 3]) == BLOCK
    assert read_into(cache, engine, [*block(1), 3]) == 0


@given(
    texts=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4), min_size=1, max_size=8),
    bound=st.integers(0, 6),
)
def test_it_never_holds_more_than_its_bound(
    engine: Engine, texts: list[list[int]], bound: int
) -> None:
    size = engine.sequence()
    engine.feed(size, block(0))
    cache = PrefixCache(engine, bound * (size.bytes + 4096))
    for text in texts:
        read_into(cache, engine, [token for number in text for token in block(number)] + [1])
        assert 0 <= cache.bytes <= cache.bound
        nodes = nodes_of(cache)
        assert cache.bytes == sum(node.size for node in nodes)
        assert set(nodes) == set(cache._order)


def nodes_of(cache: PrefixCache) -> list:  # type: ignore[type-arg]
    nodes, stack = [], list(cache._root.below.values())
    while stack:
        nodes.append(stack.pop())
        stack += nodes[-1].below.values()
    return nodes


@pytest.mark.parametrize("bound", [0, 100])
def test_a_bound_below_one_block_keeps_nothing(engine: Engine, bound: int) -> None:
    cache = PrefixCache(engine, bound)
    read_into(cache, engine, [*block(0), 1])
    assert cache.bytes == 0
