"""The cache: its bytes, and winners far into a text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from spikeformers.engine import Engine
from spikeformers.export import pack

Make = Callable[..., Any]
Ids = Callable[..., list[int]]


@pytest.mark.parametrize(
    ("levels", "planes", "of_fp16"), [(1, 1, 16), (3, 2, 8), (4, 3, 16 / 3), (16, 5, 16 / 5)]
)
def test_bytes_of_the_cache(
    levels: int, planes: int, of_fp16: float, make_model: Make, ids: Ids
) -> None:
    """Of a page of 64 tokens a head 64 wide takes 64 words for K and 64 for V, for each plane, and
    two counts of four bytes. An fp16 cache has 2 * 64 * 2 bytes for each token."""
    model = make_model(levels=levels, hidden_size=128, intermediate_size=64)
    engine = Engine(pack(model, None, "int8"), threads=1)
    text = engine.sequence()
    engine.feed(text, ids(1, 128))
    heads, layers, pages = 2, 2, 2
    assert text.bytes == pages * heads * layers * (planes * (64 + 64) * 8 + 8)
    fp16 = 128 * heads * layers * 2 * 64 * 2
    assert fp16 / text.bytes == pytest.approx(of_fp16, rel=0.01)


@pytest.mark.slow
def test_winners_of_131072_tokens(make_model: Make, ids: Ids) -> None:
    tokens, chunk = 131072, 256
    shape = {"num_hidden_layers": 1, "hidden_size": 64, "num_attention_heads": 1}
    model = make_model(
        3, **shape, intermediate_size=32, levels=1, position="none", max_position_embeddings=tokens
    )
    engine = Engine(pack(model, None, "int8"), threads=2)
    text = engine.sequence()
    given = ids(2, tokens)
    looked_at = {65536, 65792, 100096, tokens - chunk}  # first tokens of chunks
    keys, values = [], []
    for start in range(0, tokens, chunk):
        engine.feed(text, given[start : start + chunk])
        keys.append(engine.values("layers.0.key").astype(np.int32))
        values.append(engine.values("layers.0.value"))
        if start not in looked_at:
            continue
        key, value = np.concatenate(keys), np.concatenate(values)
        query = engine.values("layers.0.query").astype(np.int32)
        score = query @ key.T
        after = np.arange(len(key)) > start + np.arange(chunk)[:, None]
        won = np.where(after, -1, score).argmax(1)  # the lowest index on ties
        assert (engine.values("layers.0.winner") == value[won]).all()
        assert len(set(won)) > 1
    assert text.bytes == tokens // 64 * ((64 + 64) * 8 + 8)
