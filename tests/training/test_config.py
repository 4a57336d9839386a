"""Values, their types, and the messages for wrong ones."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from spikeformers.errors import ConfigError
from spikeformers.training import TrainConfig


def test_round_trip_through_json() -> None:
    config = TrainConfig(steps=7, betas=(0.8, 0.9), schedule="linear", compile=True)
    assert TrainConfig.from_dict(json.loads(json.dumps(config.as_dict()))) == config


def test_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'learning_rat'.*Did you mean 'learning_rate'\?"):
        TrainConfig.from_dict({"learning_rat": 1})


def test_an_unknown_choice_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"schedule is 'cosin'.*Did you mean 'cosine'\?"):
        TrainConfig(schedule="cosin")


def test_yaml_and_command_line_texts_become_numbers() -> None:
    config = TrainConfig.from_dict({"learning_rate": "3e-4", "steps": "1e3", "betas": [0, "0.5"]})
    assert (config.learning_rate, config.steps, config.betas) == (3e-4, 1000, (0.0, 0.5))
    assert isinstance(config.steps, int)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("steps", 0), ("steps", 2.5), ("steps", True), ("steps", None), ("batch_size", -1),
        ("context", 1), ("learning_rate", 0), ("learning_rate", "fast"), ("grad_clip", "nan"),
        ("warmup_ratio", 1.5), ("min_learning_rate_ratio", -0.1), ("mask_probability", 0),
        ("betas", [0.9]), ("betas", [0.9, 1.0]), ("compile", "yes"), ("compile", 1),
        ("precision", 16), ("precision", "fp16"), ("strategy", "dp"), ("device", "tpu"),
        ("tokens", -1), ("keep_checkpoints", 0), ("log_every", 0), ("eps", float("inf")),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=key):
        TrainConfig.from_dict({key: value})


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"batch_size is 6.*gradient_accumulation \(4\)"):
        TrainConfig(batch_size=6, gradient_accumulation=4)


def test_a_token_budget_decides_the_steps_rounded_up() -> None:
    assert TrainConfig(steps=5, tokens=1001, batch_size=10, context=10).total_steps == 11
    assert TrainConfig(steps=5).total_steps == 5


def test_more_steps_keep_the_schedule_and_the_choice_is_free() -> None:
    config = TrainConfig(steps=6)
    assert config.schedule_span == 6
    longer = config.continued({"steps": 9})
    assert (longer.total_steps, longer.schedule_steps, longer.schedule_span) == (9, 6, 6)
    longest = longer.continued({"steps": 20})
    assert (longest.total_steps, longest.schedule_span) == (20, 6)
    assert config.continued({"steps": 9, "schedule_steps": 9}).schedule_span == 9
    assert config.continued({"log_every": 3}) == TrainConfig(steps=6, log_every=3)
    by_tokens = TrainConfig(tokens=1000, batch_size=4, context=10)
    assert by_tokens.continued({"tokens": 2000}).total_steps == 50
    assert by_tokens.continued({"tokens": 2000}).schedule_span == 25
    assert by_tokens.continued({"steps": 40}).total_steps == 40


def test_steps_at_a_learning_rate_of_zero_are_refused() -> None:
    with pytest.raises(ConfigError, match="schedule_steps is 5; it must be at least the 9 steps"):
        TrainConfig(steps=9, schedule_steps=5, min_learning_rate_ratio=0.0)
    TrainConfig(steps=9, schedule_steps=5, min_learning_rate_ratio=0.0, schedule="constant")


def test_the_defaults_can_be_read_without_torch() -> None:
    code = (
        "import sys; from spikeformers.training import TrainConfig; TrainConfig(); "
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
