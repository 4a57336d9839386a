"""The dense twin: the same shape, about the same number of parameters, the same interface."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import BertConfig

from spikeformers.errors import ConfigError
from spikeformers.models import build_config, build_model, control_of

TWINS = {
    ("wd", "learned"): "gpt2",
    ("wd", "relative"): "gpt_neox",
    ("we", "learned"): "bert",
    ("we", "relative"): "roformer",
}


def count(config: Any) -> int:
    with torch.device("meta"):
        model = build_model(config)
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("size", "within"), [("tiny", 0.10), ("base", 0.03)])
@pytest.mark.parametrize(("family", "position"), TWINS)
def test_same_shape_and_size(family: str, position: str, size: str, within: float) -> None:
    vocab = 30522 if size == "base" else 259
    config = build_config(
        f"{family}-spikingformer-{size}",
        vocab,
        {"position": position, "output_norm": False, "dropout": 0.2, "initializer_range": 0.03},
    )
    twin = control_of(config)
    assert twin.model_type == TWINS[family, position]
    assert twin.vocab_size == vocab
    assert twin.hidden_size == config.hidden_size
    assert twin.num_hidden_layers == config.num_hidden_layers
    assert twin.num_attention_heads == config.num_attention_heads
    assert twin.max_position_embeddings == config.max_position_embeddings
    assert twin.initializer_range == 0.03
    inner = twin.n_inner if twin.model_type == "gpt2" else twin.intermediate_size
    assert inner == 4 * config.hidden_size
    dropouts = {v for k, v in twin.to_dict().items() if "drop" in k and isinstance(v, float)}
    assert 0.2 in dropouts
    assert count(twin) == pytest.approx(count(config), rel=within)


@pytest.mark.parametrize(("family", "position"), TWINS)
def test_the_twin_trains_on_the_same_batch(family: str, position: str) -> None:
    shape = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 16,
        "position": position,
    }
    config = build_config(f"{family}-spikingformer-tiny", 23, shape)
    torch.manual_seed(0)
    tokens = torch.randint(0, 23, (2, 8))
    losses = []
    for each in (config, control_of(config)):
        model = build_model(each).eval()
        out = model(tokens, attention_mask=torch.ones_like(tokens), labels=tokens)
        assert out.logits.shape == (2, 8, 23)
        losses.append(out.loss.item())
    # Both start knowing nothing: about ln 23 = 3.14 nats.
    assert losses == pytest.approx([3.14, 3.14], abs=0.4)


def test_positions_can_be_asked_for() -> None:
    config = build_config("wd-spikingformer-tiny", 50, {"position": "learned"})
    assert control_of(config).model_type == "gpt2"
    assert control_of(config, "rotary").model_type == "gpt_neox"
    config = build_config("wd-spikingformer-tiny", 50, {"position": "both"})
    assert control_of(config).model_type == "gpt_neox"
    assert control_of(config, "learned").model_type == "gpt2"
    with pytest.raises(ConfigError, match="learned or rotary, not 'alibi'"):
        control_of(config, "alibi")  # type: ignore[arg-type]


@pytest.mark.parametrize("tied", [True, False])
def test_tying_follows(tied: bool) -> None:
    config = build_config("wd-spikingformer-tiny", 50, {"position": "learned"})
    config.tie_word_embeddings = tied
    twin = control_of(config)
    assert twin.tie_word_embeddings is tied
    assert count(twin) == pytest.approx(count(config), rel=0.1)


def test_not_for_other_models() -> None:
    with pytest.raises(ConfigError, match=r"takes the config of a spiking model, not BertConfig"):
        control_of(BertConfig())
