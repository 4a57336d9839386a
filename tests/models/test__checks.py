"""What is wrong with a config is said in its own words, unknown keys among it."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoConfig, BertConfig, GPT2Config, LlamaConfig

from spikeformers.errors import CheckpointError, ConfigError
from spikeformers.models import (
    BiSpikCLMConfig,
    NeurTransformerConfig,
    SpikingViTConfig,
    WDSpikingformerConfig,
    WESpikingformerConfig,
    build_config,
    config_errors,
)
from spikeformers.models.neurtransformer import neurtransformer_config

OURS = (WDSpikingformerConfig, WESpikingformerConfig, BiSpikCLMConfig, SpikingViTConfig)


@pytest.mark.parametrize("kind", [*OURS, NeurTransformerConfig])
def test_an_unknown_key_is_named_with_the_nearest(kind: Any) -> None:
    with pytest.raises(ConfigError) as raised:
        kind(step=4)
    assert str(raised.value) == (
        f"'step' is not a key of a {kind.model_type} config. Did you mean 'steps'?"
    )


@pytest.mark.parametrize("kind", OURS)
def test_what_transformers_writes_is_known(kind: Any) -> None:
    config = kind(
        auto_map={"AutoConfig": "stub.Config"},
        torch_dtype="float32",
        attn_implementation="eager",
        name_or_path="x",
        num_labels=3,
        output_attentions=False,
        tokenizer_class="PreTrainedTokenizerFast",
        max_length=20,
        _commit_hash="0",
    )
    assert config.num_labels == 3
    again = AutoConfig.for_model(**config.to_dict())
    assert again.to_dict() == config.to_dict()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_size": "wide"}, "hidden_size is 'wide'; it must be a whole number."),
        ({"hidden_size": None}, "hidden_size is None; it must be a whole number."),
        ({"norm_eps": float("nan")}, "norm_eps is nan; it must be a finite number."),
        ({"bias": 1}, "bias is 1; it must be true or false."),
        (
            {"firing_rate_targets": {"mlp": "low"}},
            "firing_rate_targets is {'mlp': 'low'}; it must be a mapping of names to numbers or "
            "null.",
        ),
        ({"architectures": 3}, "architectures is 3; it must be a list of texts or null."),
        ({"dtype": "nn"}, "dtype is 'nn'; it must name a type of PyTorch: float32."),
        ({"steps": 1 << 31}, "steps must be at most 4096, not 2147483648."),
        (
            {"num_labels": 10**12},
            "num_labels is 1000000000000; it must be a whole number up to 1,000,000.",
        ),
    ],
    ids=str,
)
def test_a_value_of_the_wrong_type_is_said_in_words(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        WDSpikingformerConfig(**values)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (GPT2Config, {"n_embd": "wide"}, "n_embd is 'wide'; it must be a whole number."),
        (
            LlamaConfig,
            {"num_key_value_heads": "x"},
            "num_key_value_heads is 'x'; it must be a whole number or null.",
        ),
        (LlamaConfig, {"rope_scaling": 3}, "rope_parameters is 3; it must be a mapping or null."),
        (
            BertConfig,
            {"hidden_dropout_prob": "x"},
            "hidden_dropout_prob is 'x'; it must be a number or a whole number.",
        ),
        (
            LlamaConfig,
            {"hidden_size": 33, "num_attention_heads": 4},
            "The hidden size (33) is not a multiple of the number of attention heads (4).",
        ),
    ],
)
def test_validators_of_transformers_are_not_named(
    kind: Any, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError) as raised, config_errors("config.json", CheckpointError):
        kind(**values)
    assert str(raised.value) == f"config.json: {message}"


def test_a_config_error_keeps_its_words_and_changes_its_kind() -> None:
    with pytest.raises(CheckpointError) as raised, config_errors("config.json", CheckpointError):
        WDSpikingformerConfig(wta="hardest")
    assert str(raised.value).startswith("config.json: wta='hardest' is unknown")


def test_a_preset_and_a_conversion_say_it_likewise() -> None:
    with pytest.raises(ConfigError, match=r"^norm_eps is 'x'; it must be a number\.$"):
        build_config("wd-spikingformer-tiny", 9, {"norm_eps": "x"})
    with pytest.raises(ConfigError, match=r"^source does not describe a model: n_embd is 'x'"):
        neurtransformer_config(source={"model_type": "gpt2", "n_embd": "x"})
    with pytest.raises(ConfigError, match="source must be the config of a dense model"):
        neurtransformer_config(source={"n_embd": 4})
    with pytest.raises(ConfigError, match=r"'gpt3' has no conversion.*Did you mean 'gpt2'"):
        neurtransformer_config(source={"model_type": "gpt3"})
