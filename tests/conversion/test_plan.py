"""The plan: what becomes what, what is refused, what stays dense."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from transformers import PreTrainedModel

from spikeformers.conversion import make_plan
from spikeformers.errors import ConfigError

Dense = Callable[..., PreTrainedModel]


def test_every_module_has_a_row(dense: Dense) -> None:
    plan = make_plan(dense("llama"), steps=8, attention="cwssa", wta="top_k", winners=2)
    assert [(row.module, row.was, row.becomes) for row in plan.rows[:2]] == [
        ("model.layers.0.self_attn", "LlamaAttention", "SpikingSelfAttention"),
        ("model.layers.0.mlp", "LlamaMLP", "SpikingFeedForward"),
    ]
    assert plan.rows[0].method == "CWSSA, 2 winners, on signed-if counts of q, k, v, T = 8"
    assert plan.rows[1].method == "signed IF pairs around silu, T = 8"
    assert plan.rows[-1].module == "embedding, norms, residual, head"
    assert plan.left_dense == []
    assert plan.config.source is not None
    assert plan.config.source["num_key_value_heads"] == 2
    assert "_name_or_path" not in plan.config.source


def test_kept_modules_are_listed(dense: Dense) -> None:
    plan = make_plan(dense("gpt2"), attention="kept", ffn="qcfs")
    assert [row.module for row in plan.left_dense] == [
        "transformer.h.0.attn",
        "transformer.h.1.attn",
    ]
    assert plan.left_dense[0].method == "stays dense: as asked for (kept)"
    with pytest.raises(ConfigError, match="nothing would be converted"):
        make_plan(dense("gpt2"), attention="kept", ffn="kept")


def test_a_module_without_a_conversion_is_named(dense: Dense) -> None:
    model = dense("qwen2", layer_types=["full_attention", "sliding_attention"], sliding_window=4)
    with pytest.raises(ConfigError, match=r"1\.attention: sliding_attention sees a window"):
        make_plan(model)
    plan = make_plan(model, allow_dense=True)
    assert [row.module for row in plan.left_dense] == ["model.layers.1.self_attn"]
    assert (
        plan.left_dense[0].method == "stays dense: sliding_attention sees a window of the keys only"
    )
    assert plan.config.dense == ["1.attention"]
    assert plan.config.is_dense(1, "attention")
    assert not plan.config.is_dense(1, "mlp")


def test_qcfs_stands_in_for_rectifiers_only(dense: Dense) -> None:
    model = dense("gpt2", activation_function="tanh")
    with pytest.raises(
        ConfigError, match=r"0\.mlp: QCFS stands in for a rectifier, not for 'tanh'"
    ):
        make_plan(model, ffn="qcfs")
    assert make_plan(model, ffn="signed-if").left_dense == []


@pytest.mark.parametrize(
    ("choices", "message"),
    [({"steps": 0}, "steps must be at least 1, not 0"), ({"ffn": "relu"}, "ffn='relu' is unknown")],
)
def test_choices_are_checked(dense: Dense, choices: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_plan(dense("gpt2"), **choices)


@pytest.mark.parametrize(
    ("choices", "ffn", "maps"),
    [
        ({}, "signed-if", ("ffn", "qkv", "out", "head")),
        ({"spiking_maps": ["head"]}, "kept", ("head",)),
        ({"spiking_maps": ["ffn", "out"]}, "signed-if", ("ffn", "out")),
    ],
)
def test_what_thresholds_per_token_take_unless_given(
    dense: Any, choices: dict[str, Any], ffn: str, maps: tuple[str, ...]
) -> None:
    config = make_plan(dense("llama"), threshold="token", **choices).config
    assert (config.ffn, config.maps) == (ffn, maps)
    assert (config.steps, config.code, config.attention) == (8, "phase", "kept")
