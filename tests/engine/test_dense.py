"""Dense models in the engine: the twins that spiking models are compared with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from spikeformers.engine import Engine, Packed
from spikeformers.export import pack
from spikeformers.kernels import native
from spikeformers.models import WDSpikingformerConfig, build_model, control_of

pytest.importorskip("spikeformers.kernels._native")

SHAPE = {
    **{"vocab_size": 90, "hidden_size": 72, "num_hidden_layers": 2, "num_attention_heads": 3},
    "max_position_embeddings": 64,
}
PATHS = [name for name, there, _ in native().paths() if there]
IDS = np.random.default_rng(0).integers(0, 90, 24).tolist()


def twin(positions: str) -> Any:
    """A dense twin whose weights are large enough to matter."""
    torch.manual_seed(1)
    model = build_model(control_of(WDSpikingformerConfig(**SHAPE), positions))  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.15)
    return model.eval()


def logits_of(model: Any) -> np.ndarray:
    with torch.no_grad():
        logits: np.ndarray = model(torch.tensor([IDS])).logits[0].numpy()
    return logits


def one_by_one(engine: Engine) -> np.ndarray:
    text = engine.sequence()
    return np.stack([engine.feed(text, [token]) for token in IDS])


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_logits_in_fp32_are_pytorchs(positions: str) -> None:
    model = twin(positions)
    engine = Engine(pack(model, None, "fp32"), threads=1)
    np.testing.assert_allclose(one_by_one(engine), logits_of(model), atol=1e-4)


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_int8_stays_near_pytorch_and_keeps_the_likeliest_tokens(positions: str) -> None:
    model = twin(positions)
    engine = Engine(pack(model, None, "int8"), threads=1)
    found, wanted = one_by_one(engine), logits_of(model)
    assert np.abs(found - wanted).mean() < 0.05 * wanted.std()
    assert (found.argmax(-1) == wanted.argmax(-1)).mean() > 0.85
    counted = engine.counters()
    assert counted["weight_bytes"] > 0.9 * engine.dense_weight_bytes * len(IDS)


def changed(packed: Packed, least: bool) -> Packed:
    """With a weight of -128, which no sweep takes, in the first matrix."""
    if least:
        packed.tensors["layers.0.qkv"][3, 5] = -128
    return packed


@pytest.mark.parametrize("least", [False, True])
def test_a_token_has_the_same_bits_before_and_after_its_matrices_are_packed(least: bool) -> None:
    model = twin("rotary")
    every = []
    for path in PATHS:
        packed = changed(pack(model, None, "int8"), least)
        alone = Engine(packed, threads=1, kernels=path)
        every.append(one_by_one(alone))  # rows of what fired at first, from end to end later
        text = alone.sequence()
        every.append(alone.feed_all(text, IDS))  # a prompt
        every.append(one_by_one(Engine(packed, threads=2, kernels=path)))
    for other in every[1:]:
        assert other.tobytes() == every[0].tobytes()


def test_time_is_taken_by_part_and_only_when_it_is_requested() -> None:
    engine = Engine(pack(twin("rotary"), None, "int8"), threads=1)
    text = engine.sequence()
    engine.advance(text, 1)
    assert sum(engine.seconds().values()) == 0
    engine.time()
    engine.advance(text, 2)
    first = engine.seconds()
    assert all(first[part] > 0 for part in ("products", "neurons", "attention", "head", "sampling"))
    engine.time(False)
    engine.advance(text, 3)
    assert sum(engine.seconds().values()) == 0
