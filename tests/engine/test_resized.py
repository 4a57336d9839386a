"""A model whose vocabulary was resized runs in the engine at its new size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from spikeformers.engine import Engine
from spikeformers.export import pack


@pytest.mark.parametrize("size", [70, 50])
@pytest.mark.parametrize("kind", ["wd", "bispikclm", "converted-ssa", "converted-cwssa"])
def test_logits_of_a_resized_model(
    make_model: Callable[..., Any],
    make_other: Callable[..., Any],
    ids: Callable[..., list[int]],
    kind: str,
    size: int,
) -> None:
    model = make_model(3) if kind == "wd" else make_other(kind)
    model.resize_token_embeddings(size)
    tokens = ids(1, 12, 50)
    engine = Engine(pack(model, None, "fp32"), threads=1)
    logits = engine.feed_all(engine.sequence(), tokens)
    assert logits.shape == (12, size)
    with torch.no_grad():
        expected = model(torch.tensor([tokens])).logits[0].numpy()
    np.testing.assert_allclose(logits, expected, rtol=2e-4, atol=2e-4)
